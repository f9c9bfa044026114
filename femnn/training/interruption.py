"""Ctrl-C as a wish that is granted at the next good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interruption:
    """While its block runs, the first Ctrl-C sets :attr:`requested`; a second one interrupts.

    The signal's former handler is back after the block, however that ends.  Signals reach the
    main thread only, so in another thread nothing is changed.  A signal is rank-local: agree on
    ``requested`` before acting on it where others would wait.

    Parameters
    ----------
    on_request
        Called at the first Ctrl-C.

    Attributes
    ----------
    requested : bool
        Whether Ctrl-C was pressed since the block began.
    """

    def __init__(self, on_request: Callable[[], None] | None = None):
        self.requested = False
        self._on_request = on_request
        self._previous: Any = None

    def __enter__(self) -> Self:
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._on_request is not None:
            self._on_request()
