"""What the tape's nodes of users' values hold when something is recorded from these."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.adjoint_utils.checkpointing import CheckpointFunction
from pyadjoint import Block
from pyadjoint.block_variable import BlockVariable
from pyadjoint.tape import get_working_tape

from femnn.fields.copies import same_values
from femnn.parallel import any_rank_each

# What a node held when a block was last recorded from it; evaluations give it something else.
_recorded: weakref.WeakKeyDictionary[BlockVariable, weakref.ref] = weakref.WeakKeyDictionary()


def add_dependencies(block: Block, values: Sequence[Any]) -> None:
    """Let a block that is to be recorded depend on values as they are now.  Collective."""
    nodes = refresh(values)
    for value in values:
        block.add_dependency(value)
    del nodes  # a value holds its node weakly, and now the block has it


def refresh(values: Iterable[Any]) -> list[BlockVariable]:
    """Let the nodes of values hold them, before a block is recorded from these.  Collective.

    pyadjoint gives a block the node that a value has, with what this held when it was first used,
    or when a functional was evaluated last; it outlives a cleared tape, too.  A node that the
    tape does not know yet takes the present value.  One that it knows is left with what it
    holds, and the value gets another where it was changed without being recorded, as by
    ``f.dat.data[:] = ...`` in a time loop.

    Parameters
    ----------
    values
        Functions, Constants and weights; others are passed over.

    Returns
    -------
    list
        The nodes, which the values hold weakly.
    """
    values = [value for value in values if _is_given(value)]
    comms = [value.comm for value in values if isinstance(value, fd.Function)]
    comm = max(comms, key=lambda comm: comm.size, default=None)
    differ = any_rank_each(comm, [not _holds_present(value.block_variable) for value in values])
    nodes = []
    for value, differs in zip(values, differ, strict=True):
        if differs:
            _renew(value)
        node = value.block_variable
        node.save_output(overwrite=False)
        _recorded[node] = weakref.ref(node.checkpoint)
        nodes.append(node)
    return nodes


def _is_given(value: Any) -> bool:
    """Whether the value is the user's, and not computed where it is used."""
    kinds = isinstance(value, (fd.Function, fd.Constant)) or hasattr(value, "vector")
    return kinds and not getattr(value, "_ad_floating_active", False)


def _holds_present(node: BlockVariable) -> bool:
    """Whether it does on this rank, or holds nothing; what lies on disk is not read for that."""
    if node.checkpoint is None:
        return True
    if isinstance(node.checkpoint, CheckpointFunction):
        return False
    value, held = node.output, node.saved_output
    if isinstance(value, (fd.Function, fd.Constant)):
        return same_values(value, held)
    return np.array_equal(value.vector, held.vector, equal_nan=True)


def _renew(value: Any) -> None:
    node, known = value.block_variable, _recorded.get(value.block_variable)
    if not _is_on_tape(node):
        node.save_output()
    elif known is not None and known() is node.checkpoint:
        value.create_block_variable()


def _is_on_tape(node: BlockVariable) -> bool:
    """Whether a block has it, most likely one of the last."""
    return any(
        node is known
        for block in reversed(get_working_tape().get_blocks())
        for known in (*block.get_dependencies(), *block.get_outputs())
    )
