"""Pointwise ordinary differential equations with a network as the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
from pyadjoint.tape import annotate_tape, get_working_tape, no_annotations, stop_annotating
from torch import nn

from femnn.evaluation.evaluator import PointEvaluator
from femnn.parallel import any_rank, max_over_ranks, sum_over_ranks
from femnn.points.block import EvaluationBlock, columns_of
from femnn.points.map import PointMap
from femnn.points.operands import as_expressions, flatten
from femnn.points.places import common_nodes
from femnn.tape.weights import Weights
from femnn.time.runge_kutta import RungeKutta


class StepMap(PointMap):
    """A Runge-Kutta step at its points, whose values must be numbers."""

    def values(self, inputs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The unknowns after the step; an error on all ranks where some are not numbers."""
        values = super().values(inputs, weights)
        comm, step = self.at.mesh.comm, self.evaluator.net
        if any_rank(comm, not np.isfinite(values).all()):
            rows = ~np.isfinite(values).all(axis=1)
            before = rows & ~np.isfinite(inputs).all(axis=1)
            bad, known = sum_over_ranks(comm, np.array([rows.sum(), before.sum()]))
            cause = (
                "the values before it, or the operands, are wrong already"
                if known == bad
                else "the rate is too stiff or too large for it. Take more substeps or a smaller "
                "dt, or an implicit method ('sdirk2')"
            )
            raise fd.ConvergenceError(
                f"a step of {type(step.net).__name__} by {step.method} with substeps="
                f"{step.substeps} gave values that are not numbers at {bad} points (before it: at "
                f"{known}): {cause}."
            )
        return values


class PointwiseODE:
    """One step of dy/dt = net(y, ...) at each node or quadrature point; recorded on the tape.

    The network is not seen by any linear or nonlinear solver: a torch Runge-Kutta method takes
    it over the step, on the module's device.

    Parameters
    ----------
    net
        The rate: a module that maps ``(points, inputs)`` to ``(points, components of y)``.
    unknowns
        The Functions y that :meth:`step` changes.  All have their degrees of freedom at the
        same points: a space with values at nodes, or a Quadrature space, and vector spaces
        made of it.
    *operands
        UFL expressions, the further inputs of the network, after y's components.
    dt
        Length of a step: a Constant, or an expression of Constants.
    time
        Time at the start of a step, the network's last input; without, the rate does not
        depend on time.
    start
        Where the step starts from, an expression for each unknown; by default the unknowns.
    method, substeps
        See :class:`femnn.RungeKutta`.

    Attributes
    ----------
    weights : Weights
        The network's weights, a pyadjoint control.

    Raises
    ------
    ValueError
        If the unknowns are at different points, or the network does not take the inputs.
    """

    def __init__(
        self,
        net: nn.Module,
        unknowns: fd.Function | Sequence[fd.Function],
        *operands: Any,
        dt: Any,
        time: Any = None,
        start: Sequence[Any] | None = None,
        method: str = "rk4",
        substeps: int = 1,
    ):
        self.net = net
        self.unknowns = [unknowns] if isinstance(unknowns, fd.Function) else list(unknowns)
        self.operands, self.time, self.dt = operands, time, dt
        at = common_nodes(self.unknowns)
        self._n_components = sum(int(np.prod(y.ufl_shape, dtype=int)) for y in self.unknowns)
        begin = self._begin(self.unknowns if start is None else start)
        parts = [begin, *operands, *([] if time is None else [time]), dt]
        inputs = flatten(as_expressions(parts))
        module = RungeKutta(net, self._n_components, method, substeps, timed=time is not None)
        self.rate = self._rate(inputs.ufl_shape[0] - 1)  # first: its errors name net
        self.evaluator = PointEvaluator(module, inputs.ufl_shape[0])
        self.map = StepMap(self.evaluator, at.accept(inputs), at)
        self.weights = Weights.of(net, at.mesh.comm)

    def _begin(self, start: Sequence[Any]) -> Any:
        begin = flatten(as_expressions(start))
        if begin.ufl_shape != (self._n_components,):
            raise ValueError(
                f"start has {begin.ufl_shape[0]} components, wanted {self._n_components}: one for "
                "each component of the unknowns."
            )
        return begin

    def _rate(self, n_inputs: int) -> PointEvaluator:
        rate = PointEvaluator(self.net, n_inputs)
        if rate.n_outputs != self._n_components:
            raise ValueError(
                f"the rate {type(self.net).__name__} has {rate.n_outputs} outputs, wanted "
                f"{self._n_components}: one for each component of the unknowns."
            )
        return rate

    def step(self) -> None:
        """Advance the unknowns by one step, in place.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If the step gives values that are not numbers; the unknowns then keep theirs.
        """
        comm = self.map.at.mesh.comm
        self.weights.check_ranks(comm)
        self.weights.check(self.weights.vector)
        block = self._block() if annotate_tape() else None
        with stop_annotating():
            rows = self.map.values(self.map.load())
            for y, part in zip(self.unknowns, columns_of(self._spaces, rows), strict=True):
                self.map.at.fill(y, part)
        if block is not None:
            get_working_tape().add_block(block)
            for y in self.unknowns:
                block.add_output(y.create_block_variable())

    @property
    def _spaces(self) -> list[Any]:
        return [y.function_space() for y in self.unknowns]

    def _block(self) -> EvaluationBlock:
        name = f"step({type(self.net).__name__})"
        return EvaluationBlock(self.map, self.weights, self._spaces, name)

    @no_annotations
    def stiffness(self) -> float:
        """Dt times the largest eigenvalue of the rate's Jacobian in y, at all points.  Collective.

        An explicit method needs about ``stiffness / 2`` substeps to be stable where it is
        large; rates with a value well below one are mild.

        Returns
        -------
        float
            A number without a unit, the same on all ranks; infinite where the rate has no
            derivative.
        """
        inputs = self.map.load()
        _, jacobian = self.rate.value_and_derivative(inputs[:, :-1])
        matrices = jacobian[:, :, : self._n_components]
        finite = np.isfinite(matrices).all(axis=(1, 2))
        local = np.full(len(inputs), np.inf)  # where the rate has no derivative
        eigenvalues = np.linalg.eigvals(matrices[finite])
        local[finite] = np.abs(eigenvalues).max(axis=1, initial=0.0) * np.abs(inputs[finite, -1])
        return max_over_ranks(self.map.at.mesh.comm, float(local.max(initial=0.0)))
