"""Files that appear only when they are complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name and give it its own only when it is complete.

    Parameters
    ----------
    path
        Where the file shall be; its folder is made where it is missing.

    Yields
    ------
    pathlib.Path
        The temporary name to write to, with the same suffix.

    Raises
    ------
    FileExistsError
        If a folder or a device has that name.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device"
        raise FileExistsError(f"{path} is a {kind}: give the name of a file, new or to replace.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else a crash of the machine could leave an empty file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
