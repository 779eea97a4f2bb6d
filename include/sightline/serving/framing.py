"""Messages between a server and its predictor: a JSON value and bytes behind it, each with its length.

Nothing is unpickled: what comes from the other side is text and bytes alone.
"""

import json
import struct
from typing import IO, Any

LENGTHS = struct.Struct(">II")


def write_message(stream: IO[bytes], value: Any, content: bytes = b"") -> None:
    """Send one message."""
    text = json.dumps(value).encode()
    stream.write(LENGTHS.pack(len(text), len(content)))
    stream.write(text)
    stream.write(content)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[Any, bytes] | None:
    """The next message; None where the other side has ended, in the midst of one or between two."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    text_bytes, content_bytes = LENGTHS.unpack(lengths)
    text, content = stream.read(text_bytes), stream.read(content_bytes)
    if len(text) < text_bytes or len(content) < content_bytes:
        return None
    return json.loads(text), content
