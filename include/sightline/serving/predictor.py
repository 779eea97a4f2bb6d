"""Champions in a process beside the server, so that torch, and bytes from strangers, are not in its own.

The process starts with the first photo, answers one after the other, is ended where a photo takes too
long, and is started again where it has died. It ends with the server: its stdin closes.
"""

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import sightline
from sightline import errors
from sightline.errors import PhotoRefused, ResourceError, SightlineError
from sightline.serving.framing import read_message, write_message
from sightline.serving.questions import Answer, Question

ANSWER_SECONDS = 60.0  # for a photo, its champion's loading included
END_SECONDS = 5.0  # for the process to end by itself
COMMAND = (sys.executable, "-m", "sightline.serving.worker")


class Predictor:
    """Answers questions about photos, whatever happens to the process that does it; threads may share it."""

    def __init__(
        self, answer_seconds: float = ANSWER_SECONDS, command: tuple[str, ...] = COMMAND
    ) -> None:
        self.answer_seconds = answer_seconds
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, question: Question, content: bytes) -> Answer:
        """What the champion says of an encoded photo.

        Raises what `Champions.answer` does, and ResourceError where the process has died of the photo or
        was ended over it.
        """
        with self._lock:
            said = self._exchange(asdict(question), content)
        if "answer" in said:
            return Answer.from_json(said["answer"])
        if said["error"] == "PhotoRefused":
            raise PhotoRefused(said["sentence"], said["reason"])
        kind: type[SightlineError] = getattr(errors, said["error"])
        raise kind(said["sentence"])

    @property
    def pid(self) -> int | None:
        """Of the process, or None where it does not run."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def close(self) -> None:
        """End the process; a later question starts another one."""
        with self._lock:
            self._end(END_SECONDS)

    def _exchange(self, asked: dict[str, Any], content: bytes) -> dict[str, Any]:
        """One question, one answer; a process that has ended since the last one is replaced first."""
        if self.pid is None:
            self._start()
        process = self._process
        assert process and process.stdin and process.stdout
        overdue = threading.Event()
        timer = threading.Timer(self.answer_seconds, _end_overdue, (process, overdue))
        timer.start()
        try:
            said = _ask(process.stdin, process.stdout, asked, content)
        finally:
            timer.cancel()
        if said is None:
            self._end(END_SECONDS)
            raise ResourceError(self._explain(overdue.is_set()))
        return said

    def _start(self) -> None:
        self._end(0)
        own = str(Path(sightline.__file__).parents[1])  # the same code, however it was found
        paths = os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},  # as on a worker
            start_new_session=True,  # Ctrl-C is for the server, whose end it notices
        )

    def _explain(self, was_overdue: bool) -> str:
        if was_overdue:
            return (
                f"This photo took longer than {self.answer_seconds:g} s to answer, so the predictor was "
                "ended; it starts again with the next photo."
            )
        return "The predictor's process has died of this photo; it starts again with the next one."

    def _end(self, seconds: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _ask(
    questions: IO[bytes], answers: IO[bytes], asked: dict[str, Any], content: bytes
) -> dict[str, Any] | None:
    """The answer; None where the process has ended over it."""
    try:
        write_message(questions, asked, content)
        message = read_message(answers)
    except BrokenPipeError:
        return None
    return None if message is None else message[0]


def _end_overdue(process: "subprocess.Popen[bytes]", overdue: threading.Event) -> None:
    overdue.set()
    process.kill()
