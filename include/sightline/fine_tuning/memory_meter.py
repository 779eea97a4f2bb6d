"""Memory of a training process as it is measured: resident memory, or that of its GPU."""

import ctypes
import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import nn

PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class OverLimit(Exception):
    """A measured run was stopped, because it held more than it may."""


def release() -> None:
    """Return freed memory to the system or the GPU; glibc would keep gigabytes of freed activations."""
    gc.collect()
    trim()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def trim() -> None:
    """Return freed memory of the C library alone, which takes a millisecond."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class Meter:
    """What this process holds on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()

    def held(self) -> int:
        """Bytes at the moment."""
        if self.device.type == "cuda":
            return torch.cuda.memory_reserved(self.device)
        return int(self._process.memory_info().rss)

    def peak_of(self, run: Callable[[], None]) -> int:
        """The most bytes that were held during a run."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            run()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_reserved(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # begins VmHWM anew
        except OSError:
            return self._sampled_peak(run)
        run()
        found = PEAK.search(Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else self.held()

    def _sampled_peak(self, run: Callable[[], None]) -> int:
        peak, over = self.held(), threading.Event()

        def sample() -> None:
            nonlocal peak
            while not over.wait(0.005):
                peak = max(peak, self.held())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            run()
        finally:
            over.set()
            thread.join()
        return max(peak, self.held())

    @contextmanager
    def limited(self, network: nn.Module, limit_bytes: int) -> Iterator[None]:
        """Raise OverLimit between two layers as soon as more is held, before the kernel ends the process."""

        def check(*_: object) -> None:
            if self.held() > limit_bytes:
                raise OverLimit

        hooks = [module.register_forward_pre_hook(check) for module in network.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
