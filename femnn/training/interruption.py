"""Signals to end as wishes that are granted at the next good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interruption:
    """While its block runs, the first Ctrl-C sets :attr:`requested`; a second one interrupts.

    The signals' former handlers are back after the block, however that ends.  Signals reach the
    main thread only, so in another thread nothing is changed.  A signal is rank-local: agree on
    ``requested`` before acting on it where others would wait.

    Parameters
    ----------
    on_request
        Called at the first Ctrl-C.
    on_preemption
        Whether SIGTERM and SIGUSR1 are wishes, too, as clusters send them before they kill.

    Attributes
    ----------
    requested, preempted : bool
        Whether Ctrl-C was pressed, and one of the other signals came, since the block began.
    """

    def __init__(self, on_request: Callable[[], None] | None = None, on_preemption: bool = False):
        self.requested = self.preempted = False
        self._on_request = on_request
        self._signals = [signal.SIGINT]
        if on_preemption:
            self._signals += [signal.SIGTERM, signal.SIGUSR1]
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.requested = self.preempted = False
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in self._signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            self.preempted = True
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._on_request is not None:
            self._on_request()
