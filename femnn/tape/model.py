"""What a functional on a tape is computed from: its values and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import firedrake as fd
from mpi4py import MPI
from pyadjoint import Block, OverloadedType, Tape

from femnn.tape.control import VectorControl
from femnn.tape.meshes import OnMeshes


def blocks_behind(functional: Any, tape: Tape | None) -> Iterator[Block]:
    """The blocks that compute the functional, the last first."""
    if tape is None or not isinstance(functional, OverloadedType):
        return
    needed = {functional.block_variable}
    for block in reversed(tape.get_blocks()):
        if any(output in needed for output in block.get_outputs()):
            needed.update(block.get_dependencies())
            yield block


def values_behind(functional: Any, tape: Tape | None) -> Iterator[Any]:
    """What the blocks that compute the functional depend on, the last first; meshes too."""
    for block in blocks_behind(functional, tape):
        for dependency in block.get_dependencies():
            yield dependency.output
        if isinstance(block, OnMeshes):
            yield from block.meshes


def is_computed_on(functional: OverloadedType, tape: Tape) -> bool:
    """Whether a block on the tape computes the functional."""
    node = functional.block_variable
    return any(output is node for block in tape.get_blocks() for output in block.get_outputs())


def largest_comm(values: Iterable[Any]) -> MPI.Comm | None:
    """The communicator of the most ranks among those of vectors, fields and meshes."""
    comms = (
        v.function_space().comm if isinstance(v, (fd.Function, fd.Cofunction)) else v.comm
        for v in values
        if isinstance(v, (VectorControl, fd.Function, fd.Cofunction, fd.MeshGeometry))
    )
    return max(comms, key=lambda comm: comm.size, default=None)
