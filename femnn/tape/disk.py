"""Fields in files, and the memory of those that are given up."""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import firedrake as fd
import numpy as np


class StoredField:
    """The values of a Function or Cofunction in a file of this rank's.

    The file lives as long as this object.
    """

    def __init__(self, value: Any, path: Path):
        self._make = type(value), value.function_space()
        self._path = path
        np.savez(path, *(part.data_ro for part in value.dat))
        weakref.finalize(self, path.unlink, missing_ok=True)

    def read(self) -> Any:
        """The values in a new Function or Cofunction."""
        kind, space = self._make
        value = kind(space)
        with np.load(self._path) as arrays:
            for name, part in zip(arrays.files, value.dat, strict=True):
                part.data_wo[...] = arrays[name]
        return value


class Disk:
    """Fields in files; a field that is there already is not written again.

    Parameters
    ----------
    directory
        Where a folder for the files is made; the system's for temporary files by default.
    """

    def __init__(self, directory: str | None):
        self._directory = directory
        self._folder: Path | None = None
        # By the data: Functions with other data can be equal.
        self._written: weakref.WeakKeyDictionary[Any, tuple[StoredField, int]]
        self._written = weakref.WeakKeyDictionary()
        self._n_files = 0

    def put(self, value: Any) -> Any:
        """Write a field; all else is small and stays in memory."""
        if not isinstance(value, (fd.Function, fd.Cofunction)):
            return value
        stored, version = self._written.get(value.dat, (None, -1))
        if stored is None or version != value.dat.dat_version:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="femnn-", dir=self._directory))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._n_files += 1
            stored = StoredField(value, self._folder / f"{self._n_files}.npz")
            self._written[value.dat] = stored, value.dat.dat_version
        return stored

    def get(self, stored: Any) -> Any:
        """Read a field; all else is what it is."""
        if not isinstance(stored, StoredField):
            return stored
        value = stored.read()
        self._written[value.dat] = stored, value.dat.dat_version
        return value


class Garbage:
    """Collects Python's cycles of references, in which Firedrake's ``assign`` leaves fields.

    Python does so by itself only after many new objects, however large they are.  Here a
    twentieth of the time may go into it: where fields are large, that is every few steps.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def collect(self) -> None:
        """Collect, unless that has been done lately."""
        start = time.monotonic()
        if start >= self._next:
            gc.collect()
            end = time.monotonic()
            self._next = end + 20 * (end - start)
