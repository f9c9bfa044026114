"""Recording an ensemble's members, each on a tape of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import firedrake as fd
from pyadjoint import AdjFloat, Control, Tape, pause_annotation
from pyadjoint.tape import annotate_tape, continue_annotation, get_working_tape, set_working_tape

from femnn.ensembles.groups import Failure, Groups
from femnn.ensembles.members import Member
from femnn.ensembles.shared import Shared, name_of
from femnn.parallel import any_rank_each
from femnn.tape.model import check_constants, largest_comm, values_behind
from femnn.tape.weights import Weights

Build = Callable[[Any, Any], Any]


class Recording:
    """Records members, and looks whether each tape has all that its loss comes from.

    A tape's nodes belong to it alone: values that several members use get one in each.

    Parameters
    ----------
    build
        Called as ``build(member, comm)``.
    groups
        The ranks.
    shared
        The controls.
    """

    def __init__(self, build: Build, groups: Groups, shared: Shared):
        self._build, self._groups, self._shared = build, groups, shared
        self._made: dict[int, Any] = {}  # what other tapes compute from the controls

    def members(self, members: Sequence[Any]) -> list[Member]:
        """Record this group's members.  Collective.

        Raises
        ------
        RuntimeError
            If ``build`` raises an error on another rank; on its own the error itself.
        firedrake.ConvergenceError
            If solves fail, and nothing else.
        """
        own, found = self._groups.own(len(members)), []
        around = get_working_tape() or Tape()  # there is none until firedrake.adjoint is imported
        self._note_made(around, [v.block_variable for v in self._shared.objects])
        with _apart(around), self._shared.own_nodes():
            for k in range(-(-len(members) // self._groups.number)):
                failure = None
                if k < len(own):
                    try:
                        found.append(self._record(own[k], members[own[k]]))
                    except Exception as error:
                        failure = Failure(own[k], error)
                self._groups.agree(failure)
        return found

    def _record(self, index: int, member: Any) -> Member:
        with set_working_tape(Tape()), _annotating():
            functional = self._build(member, self._groups.group)
            tape = get_working_tape()
        self._shared.check_unchanged()
        self._check(functional, tape)
        used = {bv for block in tape.get_blocks() for bv in block.get_dependencies()}
        uses = [i for i, node in enumerate(self._shared.nodes) if node in used]
        nodes = [Control(self._shared.objects[i]) for i in uses]
        self._note_made(tape, self._shared.nodes)
        for value in _values_of(tape, besides=self._shared.nodes):
            value.clear_block_variable()
        given = list(_given(tape, self._shared.nodes))
        return Member(index, functional, tape, uses, nodes, given)

    def _check(self, functional: Any, tape: Tape) -> None:
        if not isinstance(functional, AdjFloat):
            raise TypeError(
                f"ensemble: build returned a {type(functional).__name__}, wanted the member's loss "
                "as a recorded number, such as femnn.assemble((u - data)**2 * dx) or "
                "data.misfit(u)."
            )
        comm = largest_comm(v for v in values_behind(functional, tape) if not _is_weights(v))
        if comm is not None and comm.size != self._groups.group.size:
            raise ValueError(
                f"ensemble: a model was built on {comm.size} ranks, and each member has "
                f"{self._groups.group.size}: make its mesh with the communicator that build gets, "
                "as in UnitSquareMesh(8, 8, comm=comm)."
            )
        constants = [v for v in self._shared.objects if isinstance(v, fd.Constant)]
        check_constants("ensemble", constants, tape.get_blocks())
        for value in _given(tape, self._shared.nodes):
            self._check_given(value)

    def _check_given(self, value: Any) -> None:
        """Raise where a derivative would be missing."""
        if isinstance(value, Weights) and value.parameters:
            raise ValueError(
                f"ensemble: build uses the weights of {value.name}, which is none of the controls: "
                "name all networks that members share, controls=[net, ...], or call "
                "requires_grad_(False) on one that is not trained."
            )
        if id(value) in self._made:
            raise ValueError(
                f"ensemble: build uses {value!r}, which was computed from the controls outside of "
                "it, or for another member: derivatives through it would be missing. Compute it "
                "inside of build, from Functions that are made there."
            )

    def _note_made(self, tape: Tape, nodes: Iterable[Any]) -> None:
        moved = set(nodes)
        for block in tape.get_blocks():
            if any(bv in moved for bv in block.get_dependencies()):
                moved.update(block.get_outputs())
                self._made.update((id(bv.output), bv.output) for bv in block.get_outputs())


def check_used(members: Sequence[Member], groups: Groups, shared: Shared) -> None:
    """Raise on all ranks where no member depends on one of the controls.  Collective."""
    here = [any(i in m.uses for m in members) for i in range(len(shared.objects))]
    for value, used in zip(shared.objects, any_rank_each(groups.comm, here), strict=True):
        if not used:
            raise ValueError(
                f"ensemble: no member's loss depends on {name_of(value)}: leave it out of the "
                "controls, or use it in build."
            )


@contextmanager
def _annotating() -> Iterator[None]:
    before = annotate_tape()
    continue_annotation()
    try:
        yield
    finally:
        if not before:
            pause_annotation()


@contextmanager
def _apart(tape: Tape) -> Iterator[None]:
    """Let the values that a tape knows have new nodes inside, and theirs again afterwards."""
    known = [(value, value.block_variable) for value in _values_of(tape)]
    for value, _ in known:
        value.clear_block_variable()
    try:
        yield
    finally:
        for value, node in known:
            value.block_variable = node


def _values_of(tape: Tape, besides: Iterable[Any] = ()) -> list[Any]:
    """The values whose present nodes are on a tape; numbers never change, and keep theirs."""
    nodes = dict.fromkeys(
        bv for b in tape.get_blocks() for bv in (*b.get_dependencies(), *b.get_outputs())
    )
    for node in besides:
        nodes.pop(node, None)
    return [
        node.output
        for node in nodes
        if not isinstance(node.output, AdjFloat) and node.output._block_variable() is node
    ]


def _given(tape: Tape, nodes: Iterable[Any]) -> Iterator[Any]:
    """The values that a tape depends on but does not compute, but for these nodes'."""
    known = set(nodes)
    for block in tape.get_blocks():
        for bv in block.get_dependencies():
            if bv not in known:
                yield bv.output
        known.update(block.get_outputs())


def _is_weights(value: Any) -> bool:
    return isinstance(value, Weights)
