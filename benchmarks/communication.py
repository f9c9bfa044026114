"""Counts of femnn's own collective calls, by the communicator that ``femnn.parallel`` gets."""

import pickle
import sys
from collections import Counter
from contextlib import contextmanager
from inspect import isfunction

from mpi4py import MPI

import femnn.parallel


class Counted:
    """A communicator that counts its collective calls and the bytes that a rank gets from each."""

    def __init__(self, comm, calls, received):
        self._comm, self._calls, self._received = comm, calls, received

    def __getattr__(self, name):
        found = getattr(self._comm, name)
        return self._following(name, found) if callable(found) else found

    def _following(self, name, function):
        def call(*args, **keywords):
            result = function(*args, **keywords)
            self._calls[name] += 1
            self._received[name] += _size(name, args, result)
            return result

        return call


def _size(name, args, result):
    """The bytes that a rank holds after a call; those of Python objects are pickled."""
    if name[0].islower():
        return len(pickle.dumps(result))
    filled = args[0] if name == "Bcast" else args[1]
    return (filled[0] if isinstance(filled, list) else filled).nbytes


@contextmanager
def counted():
    """Count femnn's own calls: a dictionary with ``calls`` and ``bytes``, each by name."""
    calls, received = Counter(), Counter()

    def through(function, place):
        def counting(*args, **keywords):
            args = list(args)
            if isinstance(args[place], MPI.Comm):
                args[place] = Counted(args[place], calls, received)
            return function(*args, **keywords)

        return counting

    pieces = femnn.parallel.Pieces
    originals = {
        f: through(f, 0)
        for f in vars(femnn.parallel).values()
        if isfunction(f) and f.__module__ == "femnn.parallel"
    }
    changed = [
        (module, name, value)
        for key, module in list(sys.modules.items())
        if key.partition(".")[0] == "femnn"
        for name, value in list(vars(module).items())
        if isfunction(value) and value in originals
    ]
    plain = pieces.__init__, pieces.gather

    def gather(self, own):
        comm = self._comm
        if isinstance(comm, MPI.Comm):
            self._comm = Counted(comm, calls, received)
        try:
            return plain[1](self, own)
        finally:
            self._comm = comm

    try:
        pieces.__init__, pieces.gather = through(plain[0], 1), gather
        for module, name, value in changed:
            setattr(module, name, originals[value])
        yield {"calls": calls, "bytes": received}
    finally:
        pieces.__init__, pieces.gather = plain
        for module, name, value in changed:
            setattr(module, name, value)
