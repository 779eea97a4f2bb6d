"""Photos that are handed in: read into memory up to a bound, never onto a disk, and a few at a time.

The bound holds while a photo is being read. What is more is read on and dropped, as far as is reasonable:
a client that is cut off in the midst of sending shows its own error instead of our sentence.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

UPLOAD_BYTES = 24 * 2**20  # of a photo; phones write 3 to 12 MB
FORM_BYTES = 64 * 2**10  # of what stands around it
DROPPED_BYTES = 512 * 2**20  # that are read only to answer in peace
READ_SECONDS = 60.0
HELD_UPLOADS = 8  # at once; others wait before they are read


@dataclass(frozen=True)
class Upload:
    """A photo and the fields beside it."""

    content: bytes
    fields: dict[str, str]


class Turns:
    """Who may hand in a photo now, of one application."""

    def __init__(self, most: int = HELD_UPLOADS) -> None:
        self._slots = asyncio.Semaphore(most)

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncGenerator[Upload]:
        """The upload of a request, as long as it is worked on; HTTPException says what is wrong with it."""
        async with self._slots:
            yield await read_upload(request)


async def read_upload(request: Request) -> Upload:
    """The one file of a multipart form, and its fields."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await _parse(request)
    except TimeoutError:
        raise HTTPException(
            408, f"The photo did not arrive within {READ_SECONDS:g} s; try a smaller one."
        ) from None
    except MultiPartException as error:
        raise HTTPException(400, f"This is no form with one photo in it: {error.message}") from None


async def _parse(request: Request) -> Upload:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(
            415, "Hand in the photo as a form (multipart/form-data), in its field 'file'."
        )
    parser = MultiPartParser(
        request.headers, _capped(request), max_files=1, max_fields=16, max_part_size=2**10
    )
    parser.spool_max_size = UPLOAD_BYTES + FORM_BYTES + 1  # in memory, whatever comes
    form = await parser.parse()
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise HTTPException(422, "Hand in a photo in the form's field 'file'.")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return Upload(await file.read(), fields)
    finally:
        await form.close()


async def _capped(request: Request) -> AsyncGenerator[bytes]:
    """The body as it comes; HTTPException 413 where it grows beyond the bound."""
    received = 0
    stream = request.stream()
    async for chunk in stream:
        received += len(chunk)
        if received > UPLOAD_BYTES + FORM_BYTES:
            await _drop(stream)
            raise HTTPException(
                413,
                f"This file is larger than {UPLOAD_BYTES // 2**20} MiB; hand in a smaller photo.",
            )
        yield chunk


async def _drop(stream: AsyncGenerator[bytes]) -> None:
    dropped = 0
    async for chunk in stream:
        dropped += len(chunk)
        if dropped > DROPPED_BYTES:
            return
