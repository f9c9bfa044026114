"""What a functional on a tape is computed from: its values and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import firedrake as fd
import ufl
from mpi4py import MPI
from pyadjoint import Block, OverloadedType, Tape

from femnn.fields.copies import dependencies_of
from femnn.tape.control import VectorControl
from femnn.tape.meshes import OnMeshes


class OnRanks(Block):
    """A block that is computed by more ranks than its values tell.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        All of them.
    """

    comm: MPI.Comm

    def check_controls(self, who: str, controls: Sequence[Any]) -> None:
        """Raise where a control is used in it whose derivative it does not give.  Collective.

        Parameters
        ----------
        who
            Who asks, for the message.
        controls
            What the user holds of each.

        Raises
        ------
        ValueError
            If one is.
        """
        raise NotImplementedError


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
    """What the blocks that compute the functional depend on, the last first.

    Meshes too, and blocks that have ranks of their own.
    """
    for block in blocks_behind(functional, tape):
        for dependency in block.get_dependencies():
            yield dependency.output
        if isinstance(block, OnMeshes):
            yield from block.meshes
        if isinstance(block, OnRanks):
            yield block


def is_computed_on(functional: OverloadedType, tape: Tape) -> bool:
    """Whether a block on the tape computes the functional."""
    node = functional.block_variable
    return any(output is node for block in tape.get_blocks() for output in block.get_outputs())


def forget_guesses(Jhat: Any) -> None:
    """Let all solves behind a reduced functional start as if they had not been run before."""
    for block in blocks_behind(getattr(Jhat, "functional", None), getattr(Jhat, "tape", None)):
        if hasattr(block, "forget_guess"):
            block.forget_guess()


def largest_comm(values: Iterable[Any]) -> MPI.Comm | None:
    """The communicator of the most ranks among those of vectors, fields, meshes, blocks."""
    comms = (
        v.function_space().comm if isinstance(v, (fd.Function, fd.Cofunction)) else v.comm
        for v in values
        if isinstance(v, (VectorControl, fd.Function, fd.Cofunction, fd.MeshGeometry, OnRanks))
    )
    return max(comms, key=lambda comm: comm.size, default=None)


def check_constants(who: str, constants: Iterable[fd.Constant], blocks: Iterable[Block]) -> None:
    """Raise where a block's form holds a control that the block does not differentiate by.

    Firedrake's ``assemble`` and ``solve`` record the Functions in a form only.

    Raises
    ------
    ValueError
        If a form holds one of the Constants, and its block does not depend on it.
    """
    known = {id(c): c for c in constants}
    for block in blocks if known else ():
        followed = {id(bv.output) for bv in block.get_dependencies()}
        forms = [getattr(block, name, None) for name in ("form", "lhs", "rhs")]
        for form in (f for f in forms if isinstance(f, ufl.Form)):
            missed = [c for c in dependencies_of(form) if id(c) in known and id(c) not in followed]
            if missed:
                raise ValueError(
                    f"{who}: {missed[0].name} is a control, and in a form of Firedrake's assemble "
                    "or solve, whose derivative by it would be missing: use femnn.assemble and "
                    "femnn.solve there, or a Function on the Real space instead of the Constant."
                )
