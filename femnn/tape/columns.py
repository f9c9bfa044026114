"""The tangent-linear model in many directions at once, and the Gauss-Newton matrix from it.

A value's change in all directions is a matrix with a column for each direction and a row for each
number that the rank has of it: of weights and vectors all, of a field those that the rank owns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI
from pyadjoint import AdjFloat, Block, Tape
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating

from femnn.parallel import sum_over_ranks
from femnn.tape.between import (
    NoColumns,
    are_numbers,
    behind_the_model,
    is_between,
    is_copy,
    moving_nodes,
)
from femnn.tape.control import VectorControl
from femnn.tape.counts import count
from femnn.tape.model import largest_comm, values_behind
from femnn.tape.numbers import change_of, is_field, length_of, size_of, value_of

Changes = dict[Any, np.ndarray]  # of nodes
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """What one loss adds to the Gauss-Newton matrix.

    Attributes
    ----------
    block
        The loss's block.
    factor
        The functional's derivative for it.
    matrix
        Shape ``(n, n)``, with the factor in it; the same on every rank.
    """

    block: Block
    factor: float
    matrix: np.ndarray


def gauss_newton_matrix(
    J: AdjFloat, controls: Any, tape: Tape, directions: Sequence[np.ndarray] | None = None
) -> np.ndarray | None:
    """The Gauss-Newton matrix of a functional of weights and Constants.  Collective.

    See :func:`femnn.tape.curvature.gauss_newton_product`.  Each block that offers
    ``tangent_columns`` carries all directions together, a solve with one factorisation; others are
    run once for each direction.  ``derivative()`` comes again before a product with the Hessian.

    Parameters
    ----------
    J, tape
        The functional and its tape, without a schedule.
    controls
        The controls, a :class:`pyadjoint.Control` or several.
    directions
        As for :func:`gauss_newton_parts`; controls may be fields then.

    Returns
    -------
    numpy.ndarray or None
        Shape ``(n, n)``, the same on every rank; ``None`` where the tape has no such matrix, or not
        cheaply.
    """
    return _swept(J, controls, tape, _Sweep.matrix, directions)


def gauss_newton_parts(
    J: AdjFloat, controls: Any, tape: Tape, directions: Sequence[np.ndarray] | None = None
) -> list[Part] | None:
    """The Gauss-Newton matrix by the losses that it comes from.  Collective.

    Parameters
    ----------
    J, controls, tape
        As for :func:`gauss_newton_matrix`; with directions, controls may be fields.
    directions
        For each control its changes in the directions between which the matrix is taken, a row for
        each number that this rank has; by default the entries of all controls.

    Returns
    -------
    list of Part or None
        One for each loss that depends on the controls.
    """
    return _swept(J, controls, tape, _Sweep.parts, directions)


def factors_of(J: AdjFloat, controls: Any, tape: Tape) -> dict[Block, float] | None:
    """The factor with which each loss that depends on the controls is in a functional.

    Parameters
    ----------
    J, controls, tape
        As for :func:`gauss_newton_matrix`; the tape may have a schedule.

    Returns
    -------
    dict of Block and float, or None
        Of each block that makes a number of a field, a vector or the like; ``None`` where the
        functional is no sum of these.
    """
    controls = list(Enlist(controls))
    with marked(J, controls, tape), suppress(NoColumns):
        return _Sweep(J, controls, [np.zeros((0, 0)) for _ in controls], tape).factors()
    return None


def tangent_matrix(
    value: Any, controls: Any, tape: Tape, directions: Sequence[np.ndarray] | None = None
) -> np.ndarray | None:
    """The derivative of a recorded value in many directions.  Collective.

    Parameters
    ----------
    value
        A number, a vector of observations, or a field.
    controls, tape, directions
        As for :func:`gauss_newton_parts`.

    Returns
    -------
    numpy.ndarray or None
        Shape ``(n_values, n)``; of a field rank-local, with the values that this rank owns.
        ``None`` where it cannot be had.
    """
    return _swept(value, controls, tape, _Sweep.tangent, directions)


def _swept(
    value: Any,
    controls: Any,
    tape: Tape,
    result: Callable[[_Sweep], T],
    directions: Sequence[np.ndarray] | None = None,
) -> T | None:
    """What one sweep gives, or ``None`` where the tape has none."""
    controls = list(Enlist(controls))
    if tape._checkpoint_manager is not None:
        return None
    directions = _entries(controls) if directions is None else directions
    if directions is None:
        return None
    with marked(value, controls, tape), suppress(NoColumns):
        return result(_Sweep(value, controls, directions, tape))
    return None


@contextmanager
def marked(value: Any, controls: Sequence[Any], tape: Tape) -> Iterator[None]:
    """Nothing is known of derivatives, and nodes know whether they are between these."""
    tape.reset_variables(("adjoint", "hessian", "tlm"))
    with (
        stop_annotating(),
        tape.marked_control_dependents(controls),
        tape.marked_functional_dependencies(value),
    ):
        yield


def _entries(controls: Sequence[Any]) -> list[np.ndarray] | None:
    """Each number of the controls as a direction, where all are weights or Constants."""
    known = [size_of(c.control) for c in controls]
    sizes = [size for size in known if size is not None]
    if len(sizes) < len(known):
        return None
    return np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])


class _Sweep:
    """One run over the blocks between the controls and the functional, or another value."""

    def __init__(
        self, J: Any, controls: Sequence[Any], directions: Sequence[np.ndarray], tape: Tape
    ):
        self._J, self._n = J, directions[0].shape[1]
        self._relevant = [b for b in tape.get_blocks() if is_between(b)]
        # Only fields are summed over ranks, of which more may share weights than have the model.
        behind = [*(c.control for c in controls), *values_behind(J, tape)]
        fields = (v for v in behind if not isinstance(v, VectorControl))
        self._comm = largest_comm(fields) or MPI.COMM_SELF
        nodes = [c.block_variable for c in controls]
        self.changes: Changes = dict(zip(nodes, directions, strict=True))

    def factors(self) -> dict[Block, float]:
        """The functional's derivative for each loss."""
        _, losses = self._behind()
        return {b: float(b.get_outputs()[0].adj_value or 0.0) for b in losses}

    def matrix(self) -> np.ndarray:
        """The matrix.  Collective."""
        return sum((part.matrix for part in self.parts()), np.zeros((self._n, self._n)))

    def parts(self) -> list[Part]:
        """What each loss adds to the matrix.  Collective."""
        numbers, losses = self._behind()
        count("tangent", self._n)
        for block in self._relevant:
            if block not in numbers:
                self._move(block)
        found = []
        for block in losses:
            matrix = self._of_loss(block)
            factor = block.get_outputs()[0].adj_value
            found.append(Part(block, float(factor or 0.0), 0.5 * (matrix + matrix.T)))
        return found

    def tangent(self) -> np.ndarray:
        """The derivative of the value.  Collective."""
        count("tangent", self._n)
        for block in self._relevant:
            self._move(block)
        value = self._J
        if value.block_variable in self.changes:
            return self.changes[value.block_variable]
        return np.zeros((length_of(value), self._n))

    def _behind(self) -> tuple[list[Block], list[Block]]:
        """What comes behind the model, and of it the losses, for which J is differentiated."""
        numbers = behind_the_model(self._relevant, self._J.block_variable)
        losses = [b for b in numbers if not are_numbers(moving_nodes(b))]
        self._differentiate_numbers([b for b in numbers if b not in losses], losses)
        return numbers, losses

    def _differentiate_numbers(self, arithmetic: list[Block], losses: list[Block]) -> None:
        """The functional's derivative for each loss; it must be their sum, with factors."""
        outputs = [b.get_outputs()[0] for b in losses]
        self._J.block_variable.adj_value, self._J.block_variable.hessian_value = 1.0, 0.0
        for i, node in enumerate(outputs):
            node.tlm_value = 1.0 + 0.1 * i
        for block in arithmetic:
            block.evaluate_tlm(markings=True)
        for block in reversed(arithmetic):
            block.evaluate_adj(markings=True)
            block.evaluate_hessian(markings=True)
        if any(node.hessian_value for node in outputs):
            raise NoColumns
        for node in outputs:
            node.tlm_value = None

    def _move(self, block: Block) -> None:
        moving = {bv: self.changes[bv] for bv in block.get_dependencies() if bv in self.changes}
        if not moving:
            return
        if len(block.get_outputs()) == 1:
            matrix = self._together(block, moving)
            if matrix is not None:
                self.changes[block.get_outputs()[0]] = matrix
                return
        for bv, matrix in self._one_by_one(block, moving).items():
            self.changes[bv] = matrix

    def _together(self, block: Block, moving: Changes) -> np.ndarray | None:
        """The changes of a block's only output, where they need not be run one by one."""
        if hasattr(block, "tangent_columns"):
            matrix = block.tangent_columns(moving, self._n)
            if matrix is not None:
                return matrix
        if are_numbers(block.get_outputs()):
            return self._of_number(block, moving)
        return moving[block.get_dependencies()[0]] if is_copy(block) else None

    def _of_number(self, block: Block, moving: Changes) -> np.ndarray:
        """A number's changes, by its gradient."""
        (node,) = block.get_outputs()
        nodes = [node, *moving_nodes(block)]
        known = [bv.adj_value for bv in nodes]
        for bv in nodes:
            bv.adj_value = None
        node.adj_value = 1.0
        block.evaluate_adj(markings=True)
        total = np.zeros((1, self._n))
        for bv, matrix in moving.items():
            part = change_of(bv.output, bv.adj_value) @ matrix
            total += sum_over_ranks(self._comm, part) if is_field(bv.output) else part
        for bv, value in zip(nodes, known, strict=True):
            bv.adj_value = value
        return total

    def _one_by_one(self, block: Block, moving: Changes) -> Changes:
        """The block's tangent-linear model, run for each direction."""
        outputs = block.get_outputs()

        def run() -> list[np.ndarray]:
            for bv in outputs:
                bv.tlm_value = None
            block.evaluate_tlm(markings=True)
            return [change_of(bv.output, bv.tlm_value) for bv in outputs]

        return dict(zip(outputs, self._columns(moving, run), strict=True))

    def _columns(
        self, moving: Changes, run: Callable[[], list[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """What ``run`` gives for each direction, side by side."""
        found = []
        for column in range(self._n):
            for bv, matrix in moving.items():
                bv.tlm_value = value_of(matrix[:, column], bv.output)
            found.append(run())
        for bv in moving:
            bv.tlm_value = bv.hessian_value = None
        return (np.stack(columns, axis=1) for columns in zip(*found, strict=True))

    def _of_loss(self, block: Block) -> np.ndarray:
        """The second derivatives of one loss, between the changes of what it depends on."""
        (node,) = block.get_outputs()
        moving = {bv: self.changes[bv] for bv in moving_nodes(block) if bv in self.changes}
        if node.adj_value is None or not moving:
            return np.zeros((self._n, self._n))
        bent = self._bent(block, moving)
        total = np.zeros((self._n, self._n))
        for bv, matrix in moving.items():
            part = matrix.T @ bent[bv]
            total += sum_over_ranks(self._comm, part) if is_field(bv.output) else part
        return total

    def _bent(self, block: Block, moving: Changes) -> Changes:
        """The loss's Hessian times each direction's change, for each dependency."""
        (node,) = block.get_outputs()
        if hasattr(block, "hessian_columns"):
            bent = block.hessian_columns(moving, float(node.adj_value))
            if bent is not None:
                return bent

        def run() -> list[np.ndarray]:
            for bv in moving:
                bv.hessian_value = None
            node.hessian_value = 0.0
            block.evaluate_hessian(markings=True)
            return [change_of(bv.output, bv.hessian_value) for bv in moving]

        return dict(zip(moving, self._columns(moving, run), strict=True))
