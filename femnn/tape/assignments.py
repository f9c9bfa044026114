"""Recorded assignments, with derivatives by sums of vectors."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake.adjoint_utils.blocks import FunctionAssignBlock
from firedrake.adjoint_utils.checkpointing import maybe_disk_checkpoint
from firedrake.assign import CoefficientCollector
from pyadjoint import Block
from pyadjoint.tape import get_working_tape, no_annotations
from ufl.corealg.map_dag import map_expr_dag

from femnn.fields.copies import add_up, is_real
from femnn.fields.cotangents import scaled

# Blocks before which all assignments are adopted.
_recorded: weakref.WeakSet[Block] = weakref.WeakSet()


class Assignment(FunctionAssignBlock):
    """Firedrake's block of ``u.assign(2 * v + w)``, also of ``u.assign(v)`` and ``u += v``.

    Values and derivatives by fields are sums of weights times vectors.  Firedrake's own takes the
    expression apart at each evaluation, and interpolates UFL's derivatives of it, which takes
    longer than a small step in time.  What has Constants or Functions on Real spaces for summands,
    and derivatives by these, are left to it.
    """

    _known: _Sum | None = None

    def prepare_recompute_component(self, inputs: list, relevant_outputs: list) -> Any:
        """What Firedrake's block prepares, where it is used."""
        return None if self._sums_fields else super().prepare_recompute_component(inputs, [])

    @no_annotations
    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        """See :class:`pyadjoint.Block`."""
        if not self._sums_fields:
            return super().recompute_component(inputs, block_variable, idx, prepared)
        values = {bv.output: bv.saved_output for bv in self.get_dependencies()}
        total = fd.Function(block_variable.output.function_space())
        add_up([(values[field], weight) for field, weight in self._sum.terms], total)
        return maybe_disk_checkpoint(total)

    @no_annotations
    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> Any:
        """What Firedrake's block prepares, where it is used."""
        if all(self._is_field(bv) for _, bv in relevant_dependencies):
            return None
        return super().prepare_evaluate_adj(inputs, adj_inputs, relevant_dependencies)

    @no_annotations
    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        """See :class:`pyadjoint.Block`."""
        if self._is_field(block_variable):
            return scaled(self._weight(block_variable), adj_inputs[0])
        return super().evaluate_adj_component(inputs, adj_inputs, block_variable, idx, prepared)

    @no_annotations
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
        """With the products of weights and fields, which Firedrake's block leaves out."""
        change = self.evaluate_adj_component(inputs, hessian_inputs, block_variable, idx, prepared)
        relevant = [bv for _, bv in relevant_dependencies]
        moving = [bv for bv in relevant if bv.tlm_value is not None]
        linear = self.expr is None or all(map(self._is_field, relevant))
        if linear or not moving or adj_inputs[0] is None:
            return change
        expression, adjoint = super().prepare_evaluate_adj(inputs, adj_inputs, [])
        moved = sum(ufl.derivative(expression, bv.saved_output, bv.tlm_value) for bv in moving)
        change += super().evaluate_adj_component(
            inputs, adj_inputs, block_variable, idx, (moved, adjoint)
        )
        return change

    @no_annotations
    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        """See :class:`pyadjoint.Block`."""
        moving = [bv for bv in self.get_dependencies() if bv.tlm_value is not None]
        if self.expr is None or not all(map(self._is_field, moving)):
            return super().evaluate_tlm_component(inputs, tlm_inputs, block_variable, idx, prepared)
        change = fd.Function(block_variable.output.function_space())
        add_up([(bv.tlm_value, self._weight(bv)) for bv in moving], change)
        return change

    def tangent_columns(self, moving: Mapping[Any, np.ndarray], n: int) -> np.ndarray | None:
        """The changes in many directions; see :mod:`femnn.tape.columns`.

        Parameters
        ----------
        moving
            The changes of those dependencies' nodes that change.
        n
            Number of directions.
        """
        if not all(map(self._is_field, moving)):
            return None
        total, *others = (self._weight(bv) * matrix for bv, matrix in moving.items())
        return sum(others, total)

    @property
    def _sums_fields(self) -> bool:
        """Whether what is assigned is a sum of fields with the same nodes, and no copy."""
        if self.expr is None or not self._sum.of_fields_only:
            return False
        nodes = self.get_dependencies()
        return all(_is_number(bv.output) or self._is_field(bv) for bv in nodes)

    def _is_field(self, node: Any) -> bool:
        """Whether a dependency is a field with the same nodes."""
        space = self.get_outputs()[0].output.function_space()
        return not _is_number(node.output) and node.output.function_space() == space

    def _weight(self, node: Any) -> float:
        """The factor of a field."""
        if self.expr is None:
            return 1.0
        return sum(weight for field, weight in self._sum.terms if field is node.output)

    @property
    def _sum(self) -> _Sum:
        """The expression, at the present values of Constants."""
        nodes = (bv for bv in self.get_dependencies() if _is_number(bv.output))
        numbers = {bv.output: bv.saved_output for bv in nodes}
        present = tuple(value.dat.data_ro.tobytes() for value in numbers.values())
        if self._known is None or self._known.numbers != present:
            self._known = _Sum.of(ufl.replace(self.expr, numbers), present)
        return self._known


@dataclass(frozen=True)
class _Sum:
    """A weighted sum.

    Attributes
    ----------
    numbers
        The values of the Constants in the weights, as bytes.
    terms
        Functions and their weights.
    of_fields_only
        Whether there is nothing else in the sum.
    """

    numbers: tuple[bytes, ...]
    terms: list[tuple[fd.Function, float]]
    of_fields_only: bool

    @classmethod
    def of(cls, expression: Any, numbers: tuple[bytes, ...]) -> _Sum:
        """Take an expression apart, as Firedrake does where it assigns it."""
        pairs = map_expr_dag(CoefficientCollector(), expression)
        terms = [(value, float(weight)) for value, weight in pairs if not _is_number(value)]
        return cls(numbers, terms, len(terms) == len(pairs))


def _is_number(value: Any) -> bool:
    return not isinstance(value, fd.Function) or is_real(value.function_space())


def adopt_assignments(until: Block) -> None:
    """Let the assignments on the working tape be evaluated as :class:`Assignment`.

    Parameters
    ----------
    until
        The block that is recorded next; those before the last such one are adopted already.
    """
    for block in reversed(get_working_tape().get_blocks()):
        if block in _recorded:
            break
        if type(block) is FunctionAssignBlock:
            block.__class__ = Assignment  # a tape does not let a block be replaced
    _recorded.add(until)
