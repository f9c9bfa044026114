"""What a functional on a tape is computed from: its values and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import firedrake as fd
from mpi4py import MPI
from pyadjoint import OverloadedType, Tape

from femnn.tape.meshes import OnMeshes
from femnn.tape.weights import Weights


def values_behind(functional: Any, tape: Tape | None) -> Iterator[Any]:
    """What the blocks that compute the functional depend on, the last first; meshes too."""
    if tape is None or not isinstance(functional, OverloadedType):
        return
    needed = {functional.block_variable}
    for block in reversed(tape.get_blocks()):
        if any(output in needed for output in block.get_outputs()):
            for dependency in block.get_dependencies():
                needed.add(dependency)
                yield dependency.output
            if isinstance(block, OnMeshes):
                yield from block.meshes


def is_computed_on(functional: OverloadedType, tape: Tape) -> bool:
    """Whether a block on the tape computes the functional."""
    node = functional.block_variable
    return any(output is node for block in tape.get_blocks() for output in block.get_outputs())


def largest_comm(values: Iterable[Any]) -> MPI.Comm | None:
    """The communicator of the most ranks among those of weights, fields and meshes."""
    comms = (
        v.function_space().comm if isinstance(v, (fd.Function, fd.Cofunction)) else v.comm
        for v in values
        if isinstance(v, (Weights, fd.Function, fd.Cofunction, fd.MeshGeometry))
    )
    return max(comms, key=lambda comm: comm.size, default=None)
