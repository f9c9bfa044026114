"""The ranks that values on a tape live on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import firedrake as fd
from mpi4py import MPI
from pyadjoint import Tape

from femnn.tape.weights import Weights


def largest_comm(values: Iterable[Any]) -> MPI.Comm | None:
    """The communicator of the most ranks among those of weights and fields."""
    comms = (
        v.comm if isinstance(v, Weights) else v.function_space().comm
        for v in values
        if isinstance(v, (Weights, fd.Function, fd.Cofunction))
    )
    return max(comms, key=lambda comm: comm.size, default=None)


def values_on(tape: Tape | None) -> Iterator[Any]:
    """What the blocks of a tape depend on and compute."""
    for block in () if tape is None else tape.get_blocks():
        for variable in (*block.get_dependencies(), *block.get_outputs()):
            yield variable.output
