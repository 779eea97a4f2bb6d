"""What was made not long ago, bounded by its size: keys name versions or immutable files, so nothing in it is
ever out of date.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values used last, as many as weigh no more than `most` together; threads may share it."""

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda value: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._held: OrderedDict[Hashable, Value] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made now where it is not held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = make()
        with self._lock:
            self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: Value) -> None:
        if key in self._held:  # another thread was faster
            return
        self._held[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._most and self._held:
            _, oldest = self._held.popitem(last=False)
            self._weight -= self._weigh(oldest)
