"""Operator splitting: networks out of the differential operators' solves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
from torch import nn

from femnn.time.clock import advance
from femnn.time.pointwise import PointwiseODE
from femnn.variational.solver import NeuralVariationalSolver


class LieSplitting:
    """Steps of du/dt = A(u) + net(u, ...), of first order: the network, then A.

    A step takes u through the network's ordinary differential equation, point by point, into
    ``previous``, and the solver takes it from there to u.  The solver's form has no network in
    it: where it is linear with constant coefficients, its matrix is assembled and factorised
    once for all steps and all iterations of a training.

    Parameters
    ----------
    solver
        Solver of one step with A alone, from ``previous`` to its unknown u.
    previous
        The Function that stands for the last time level in the solver's form, at nodes or in a
        Quadrature space.
    net
        The rate: a module that maps ``(points, inputs)`` to ``(points, components)``, for u's
        components and then the states'.
    *operands
        UFL expressions, the network's further inputs, after u's and the states' components.
    dt
        The Constant that is the step's length in the solver's form.
    states
        Functions that A does not change, at the same points as ``previous``.
    time
        Constant, or Function on the Real space, with the time, which :meth:`step` advances; the
        network's last input.  The solver sees it at the end of the step.
    method, substeps
        How the network's part is integrated; see :class:`femnn.RungeKutta`.

    Attributes
    ----------
    weights : Weights
        The network's weights, a pyadjoint control.
    solution : tuple of Function
        What holds the solution after a step: u and the states.

    Raises
    ------
    TypeError
        If ``time`` is neither a Constant nor a Function.
    ValueError
        If ``previous`` or ``dt`` does not stand in the solver's form, a Function is given twice,
        or the shapes, the points or the network's inputs and outputs do not agree.

    References
    ----------
    S. K. Mitusch, S. W. Funke, M. Kuchta: Hybrid FEM-NN models, J. Comput. Phys. 446 (2021).

    Examples
    --------
    >>> F = (u - un) / dt * v * dx + inner(grad(u), grad(v)) * dx
    >>> solver = NeuralVariationalSolver(NeuralVariationalProblem(F, u))
    >>> splitting = LieSplitting(solver, un, net, dt=dt, method="rk4", substeps=4)
    >>> for _ in range(100):
    ...     splitting.step()
    """

    def __init__(
        self,
        solver: NeuralVariationalSolver,
        previous: fd.Function,
        net: nn.Module,
        *operands: Any,
        dt: fd.Constant,
        states: Sequence[fd.Function] = (),
        time: fd.Constant | None = None,
        method: str = "rk4",
        substeps: int = 1,
    ):
        u = solver.problem.u
        if time is not None and not isinstance(time, (fd.Constant, fd.Function)):
            raise TypeError(
                f"time={time}: wanted a Constant, or a Function of the Real space, that step() "
                "advances."
            )
        if previous is u:
            raise ValueError(
                f"previous is {u.name()}, the solver's unknown: give the Function that is the last "
                "time level in its form."
            )
        held = [u, previous, *states]
        if len(set(held)) < len(held):
            names = ", ".join(f.name() for f in held)
            raise ValueError(
                f"the unknown, the last time level and the states are {names}: one stands there "
                "twice. Give states that the solver does not change, each once."
            )
        if previous not in solver.state.copies:
            raise ValueError(
                f"{previous.name()} does not stand in the solver's form: give the Function that "
                "is the last time level there."
            )
        if dt not in solver.state.copies:
            raise ValueError(
                f"dt={dt} does not stand in the solver's form: give the Constant that is the "
                "step's length there."
            )
        if previous.ufl_shape != u.ufl_shape:
            raise ValueError(
                f"{previous.name()} has shape {previous.ufl_shape} and {u.name()} has "
                f"{u.ufl_shape}: the last time level must have the unknown's shape."
            )
        self.solver, self.dt, self.time = solver, dt, time
        self.previous, self.states = previous, tuple(states)
        self.net, self.operands = net, operands
        self.method, self.substeps = method, substeps
        self._build(u)

    def _build(self, u: fd.Function) -> None:
        self.solution = (u, *self.states)
        self._before = self._reaction(self.previous, u, self.dt, self.time)
        self.weights = self._before.weights

    def _reaction(self, into: fd.Function, start: fd.Function, dt: Any, time: Any) -> PointwiseODE:
        return PointwiseODE(
            self.net,
            [into, *self.states],
            *self.operands,
            start=[start, *self.states],
            dt=dt,
            time=time,
            method=self.method,
            substeps=self.substeps,
        )

    def step(self) -> None:
        """Advance the solution, and the time, by one step.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If the solver fails, or the network's step gives values that are not numbers.
        """
        self._before.step()
        self._solve()

    def stiffness(self) -> float:
        """The length of the network's first step times the rate's largest eigenvalue.  Collective.

        Returns
        -------
        float
            See :meth:`PointwiseODE.stiffness`; that step is dt, and half of it in
            :class:`StrangSplitting`.
        """
        return self._before.stiffness()

    def _solve(self) -> None:
        if self.time is not None:
            advance(self.time, self.dt)
        self.solver.solve()


class StrangSplitting(LieSplitting):
    """Steps of second order: half a step with the network, A, and half a step again.

    The second order needs a ``solver`` and a ``method`` of second order.

    Parameters
    ----------
    solver, previous, net, *operands, dt, states, time, method, substeps
        As for :class:`LieSplitting`.

    Attributes
    ----------
    weights : Weights
        The network's weights, a pyadjoint control.
    solution : tuple of Function
        What holds the solution, before the first step too: u and the states, or ``previous`` and
        the states where ``previous`` is in a Quadrature space.

    Raises
    ------
    TypeError, ValueError
        As :class:`LieSplitting`.

    References
    ----------
    G. Strang: On the construction and comparison of difference schemes, SIAM J. Numer. Anal. 5
    (1968).
    """

    def _build(self, u: fd.Function) -> None:
        nodal = self.previous.function_space() == u.function_space()
        whole = u if nodal else self.previous
        self.solution = (whole, *self.states)
        half = self.dt / 2
        self._before = self._reaction(self.previous, whole, half, self.time)
        later = None if self.time is None else self.time - half
        self._after = self._reaction(whole, u, half, later)
        self.weights = self._before.weights

    def step(self) -> None:
        """Advance the solution, and the time, by one step.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If the solver fails, or the network's step gives values that are not numbers.
        """
        super().step()
        self._after.step()
