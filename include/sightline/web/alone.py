"""The prototype on a port of its own, until it is interrupted."""

import socket
from collections.abc import Callable

import uvicorn

from sightline.errors import ConfigError
from sightline.web.prototype import create_prototype
from sightline.web.try_it import serving_of


def serve_alone(
    datasets: tuple[str, ...],
    host: str,
    port: int,
    *,
    shows_photos: bool,
    tell: Callable[[str], None],
) -> None:
    """Serve until KeyboardInterrupt, which it swallows; `tell` gets the address before the first request.

    ConfigError where the port is taken, or the host is not this machine's.
    """
    app = create_prototype(datasets, shows_photos=shows_photos)
    with _listening(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listening.getsockname()[1]}/")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the usual end
            pass
        finally:
            serving_of(app).predictor.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"Cannot serve at {host}, port {port}: {error.strerror or error}. Choose another --port, or "
            "leave it out."
        ) from error
