"""What the tape's nodes of users' values hold when something is recorded from these."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import CheckpointFunction
from pyadjoint import Block
from pyadjoint.block_variable import BlockVariable
from pyadjoint.tape import get_working_tape

from femnn.fields.copies import FIELDS, equal_values
from femnn.parallel import any_rank_each
from femnn.tape.assignments import adopt_assignments
from femnn.tape.control import VectorControl

# What a node held when a block was last recorded from it; evaluations give it something else.
_recorded: weakref.WeakKeyDictionary[BlockVariable, weakref.ref] = weakref.WeakKeyDictionary()


class AllAtOnce(Block):
    """A block whose preparations of first and second order give all dependencies' cotangents."""

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        """See :class:`pyadjoint.Block`."""
        return prepared[idx]

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        """See :class:`pyadjoint.Block`."""
        return prepared[idx]


def add_dependencies(block: Block, values: Iterable[Any], no_duplicates: bool = False) -> None:
    """Let a block depend on values, as these are now.  Collective.

    pyadjoint gives a block the node that a value has, with what this held when it was first used,
    or when a functional was evaluated last; with a control it outlives a cleared tape, too.  A
    node that the tape does not know yet takes the present value.  One that it knows is left with
    what it holds, and the value gets another where it was changed without being recorded, as by
    ``f.dat.data[:] = ...`` in a time loop.

    Parameters
    ----------
    block
        The block.
    values
        What it depends on.
    no_duplicates
        Whether a value counts once only.
    """
    values = list(values)
    adopt_assignments(until=block)
    held = present_nodes(values)
    for value in values:
        block.add_dependency(value, no_duplicates=no_duplicates)
    del held  # a value does not keep its node, a block does


def present_nodes(values: Iterable[Any]) -> list[BlockVariable]:
    """The values' nodes, which hold them, to be kept by the caller.  Collective."""
    values = list(values)
    held = _renewed_nodes([value for value in values if _is_given(value)])
    nodes = [value.block_variable for value in values]
    del held
    return nodes


def _renewed_nodes(values: list[Any]) -> list[BlockVariable]:
    nodes = [value.block_variable for value in values]
    comms = [value.comm for value in values if isinstance(value, FIELDS)]
    comm = max(comms, key=lambda comm: comm.size, default=None)
    differ = any_rank_each(comm, [not _holds_present(node) for node in nodes])
    for i, (value, differs) in enumerate(zip(values, differ, strict=True)):
        if differs:
            nodes[i] = _renewed(value, nodes[i])
        nodes[i].save_output(overwrite=False)
        _recorded[nodes[i]] = weakref.ref(nodes[i].checkpoint)
    return nodes


def _is_given(value: Any) -> bool:
    """Whether the value is the user's, and not computed where it is used."""
    kinds = isinstance(value, (*FIELDS, fd.Constant, VectorControl))
    return kinds and not getattr(value, "_ad_floating_active", False)


def _holds_present(node: BlockVariable) -> bool:
    """Whether it does on this rank, or holds nothing; what lies on disk is not read for that."""
    if node.checkpoint is None:
        return True
    if isinstance(node.checkpoint, CheckpointFunction):
        return False
    value, held = node.output, node.saved_output
    if isinstance(value, (*FIELDS, fd.Constant)):
        return equal_values(value, held)
    return np.array_equal(value.vector, held.vector, equal_nan=True)


def _renewed(value: Any, node: BlockVariable) -> BlockVariable:
    """The node, or another, to hold a value that the node does not hold."""
    known = _recorded.get(node)
    if not is_on_tape(node):
        node.save_output()
    elif (known is not None and known() is node.checkpoint) or _has_changed(value):
        return value.create_block_variable()
    return node


def _has_changed(value: Any) -> bool:
    """Whether a value that can tell so has changed since it was recorded."""
    return isinstance(value, VectorControl) and value.has_changed


def is_on_tape(node: BlockVariable) -> bool:
    """Whether a block of the working tape has it, most likely one of the last."""
    return any(
        node is known
        for block in reversed(get_working_tape().get_blocks())
        for known in (*block.get_dependencies(), *block.get_outputs())
    )
