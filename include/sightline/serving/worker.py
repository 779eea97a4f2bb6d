"""The predictor's process: photos in by stdin, answers out by stdout, until the other side has ended.

python -m sightline.serving.worker
"""

import logging
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sightline.errors import PhotoRefused, SightlineError
from sightline.serving.champions import Champions
from sightline.serving.framing import read_message, write_message
from sightline.serving.questions import Question

log = logging.getLogger(__name__)


def main() -> None:
    """Answer question after question."""
    _be_modest()
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to the log, not between two answers
    champions = Champions()
    while (message := read_message(questions)) is not None:
        asked, content = message
        write_message(answers, _answer(champions, asked, content))


def _be_modest() -> None:
    """No core dumps of strangers' photos, and the first to go where memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("800")


def _answer(champions: Champions, asked: dict[str, Any], content: bytes) -> dict[str, Any]:
    """An answer, or what went wrong as a sentence; the process lives on."""
    try:
        return {"answer": asdict(champions.answer(Question(**asked), content))}
    except PhotoRefused as error:
        return {"error": "PhotoRefused", "sentence": str(error), "reason": error.reason}
    except SightlineError as error:
        return {"error": type(error).__name__, "sentence": str(error)}
    except Exception as error:  # the last resort: the log has the details
        log.exception("A photo could not be answered.")
        kind = type(error).__name__
        return {
            "error": "ResourceError",
            "sentence": f"This photo could not be answered ({kind}); the server's log says why.",
        }


if __name__ == "__main__":
    main()
