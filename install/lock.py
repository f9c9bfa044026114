"""Lets one build at a time work on an environment."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold the lock file; while another process holds it, say so and wait.

    The kernel drops the lock with its last holder, so a killed build never leaves one behind.
    Yields the file descriptor: a step's command inherits it, and so keeps others out until it has
    ended, even where the installer that started it was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        take(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int, path: Path) -> None:
    """Lock the file, with a line of explanation if that means to wait."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another build of this environment is running; waiting for it ({path}).", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
