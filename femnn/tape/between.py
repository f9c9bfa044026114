"""Which blocks are between controls and a functional, in the model and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
from firedrake.adjoint_utils.blocks import FunctionAssignBlock
from pyadjoint import AdjFloat, Block


class NoColumns(Exception):
    """Something on the tape has no change in many directions at once."""


def is_between(block: Block) -> bool:
    """Whether a block is between the controls and the functional."""
    return any(bv.is_control_dependent for bv in block.get_dependencies()) and any(
        bv.is_functional_dependency for bv in block.get_outputs()
    )


def behind_the_model(blocks: Sequence[Block], functional: Any) -> list[Block]:
    """The blocks from whose numbers only numbers are computed, until the functional, in order.

    Numbers that the model goes on with, such as integrals that are observed, belong to the model.
    """
    found: list[Block] = []
    only_numbers: dict[Any, set[bool]] = {functional: {True}}
    for block in reversed(blocks):
        outputs = block.get_outputs()
        lead = set().union(*(only_numbers.get(bv, set()) for bv in outputs))
        is_behind = are_numbers(outputs) and lead == {True}
        if are_numbers(outputs) and len(lead) == 2:
            raise NoColumns
        for bv in block.get_dependencies():
            only_numbers.setdefault(bv, set()).add(is_behind)
        if is_behind:
            found.append(block)
    return found[::-1]


def moving_nodes(block: Block) -> list[Any]:
    """What it depends on, and the controls change, each once."""
    return list(dict.fromkeys(bv for bv in block.get_dependencies() if bv.is_control_dependent))


def are_numbers(nodes: Sequence[Any]) -> bool:
    """Whether all values are numbers."""
    return all(isinstance(bv.output, AdjFloat) for bv in nodes)


def is_copy(block: Block) -> bool:
    """Whether a block gives one field's values to another of the same space, ``a.assign(b)``."""
    if not isinstance(block, FunctionAssignBlock) or block.expr is not None:
        return False
    given, taken = block.get_dependencies()[0].output, block.get_outputs()[0].output
    both = isinstance(given, fd.Function) and isinstance(taken, fd.Function)
    return both and given.function_space() == taken.function_space()
