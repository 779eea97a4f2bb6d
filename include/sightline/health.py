"""Whether a server is healthy, for health checks of containers: exits 0 or says why not.

    python -m sightline.health URL [PART]

The URL must answer with 200; PART is a part of Airflow whose status the answer must call healthy. Imports
nothing but the standard library, because it is started every few seconds.
"""

import json
import sys
import urllib.request

TIMEOUT_SECONDS = 5
DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # a container is beside its server


def find_problem(url: str, part: str | None = None) -> str | None:
    """None where the server is well, else a sentence."""
    try:
        with DIRECT.open(url, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read()
        if part is None:
            return None
        status = json.loads(content)[part]["status"]
    except (OSError, ValueError, KeyError) as error:
        return f"{url} does not answer as it should: {type(error).__name__}: {error}"
    return None if status == "healthy" else f"{url} calls {part} {status}."


def main() -> int:
    """Check what the command line names; the exit code of a health check."""
    problem = find_problem(*sys.argv[1:])
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
