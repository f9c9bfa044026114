"""Which way of stepping in time is the better one: measured, not guessed."""

from __future__ import annotations

import time as clock
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import firedrake as fd
import numpy as np
from pyadjoint.tape import no_annotations

from femnn.parallel import max_over_ranks
from femnn.time.clock import advance
from femnn.time.splitting import LieSplitting
from femnn.variational.solver import NeuralVariationalSolver


class Scheme(Protocol):
    """A way of stepping in time."""

    solver: NeuralVariationalSolver
    previous: fd.Function
    dt: fd.Constant
    time: fd.Constant | None
    solution: tuple[fd.Function, ...]

    def step(self) -> None:
        """Advance the solution by one step."""


class ImplicitStep:
    """One solve for each step, with the networks inside: the counterpart of splitting.

    Parameters
    ----------
    solver
        Solver of one step, from ``previous`` to its unknown.
    previous
        The Function that stands for the last time level in the solver's form.
    dt
        The Constant that is the step's length there.
    time
        Constant with the time, which :meth:`step` advances before it solves.
    """

    def __init__(
        self,
        solver: NeuralVariationalSolver,
        previous: fd.Function,
        *,
        dt: fd.Constant,
        time: fd.Constant | None = None,
    ):
        self.solver, self.previous, self.dt, self.time = solver, previous, dt, time
        self.solution = (solver.problem.u,)

    def step(self) -> None:
        """Advance the solution, and the time, by one step.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If the solver fails.
        """
        if self.time is not None:
            advance(self.time, self.dt)
        self.previous.assign(self.solver.problem.u)
        self.solver.solve()


@dataclass(frozen=True)
class SchemeCost:
    """What a scheme costs and how exact it is.

    Attributes
    ----------
    name
        The scheme's class.
    seconds
        Time of a step; the slowest rank's.
    error
        Relative error over the measured span, estimated from runs with the step and with halves and
        quarters of it.
    order
        Observed order of convergence in the step.  A scheme that does not converge has infinite
        costs.
    newton_iterations
        Newton iterations in a step.
    stiffness
        For splitting, see :meth:`PointwiseODE.stiffness`; ``None`` otherwise.
    """

    name: str
    seconds: float
    error: float
    order: float
    newton_iterations: float
    stiffness: float | None

    def seconds_for(self, error: float) -> float:
        """Time of the same span with steps of the length that would give this error."""
        if not np.isfinite(self.seconds):
            return np.inf
        return self.seconds * (self.error / error) ** (1 / self.order)


@dataclass(frozen=True)
class Comparison:
    """Costs of several schemes, and which is the best at equal error.

    Attributes
    ----------
    costs
        One for each scheme.
    best
        Index of the scheme that reaches the smallest of the errors in the least time.
    """

    costs: tuple[SchemeCost, ...]
    best: int

    def __str__(self) -> str:
        target = min(c.error for c in self.costs)
        heads = f"{'ms a step':>10}{'error':>10}{'order':>7}{'Newton':>8}{'at equal error':>16}"
        lines = [f"{'':<18}{heads}"]
        for c in self.costs:
            if not np.isfinite(c.seconds):
                lines.append(f"{c.name:<18} does not converge with this step")
                continue
            ratio = c.seconds_for(target) / self.costs[self.best].seconds_for(target)
            stiff = "" if c.stiffness is None else f"  (dt times stiffness {c.stiffness:.1e})"
            lines.append(
                f"{c.name:<18}{1e3 * c.seconds:>10.2f}{c.error:>10.1e}{c.order:>7.2f}"
                f"{c.newton_iterations:>8.1f}{ratio:>14.1f} x{stiff}"
            )
        best = self.costs[self.best]
        if not np.isfinite(best.seconds):
            return "\n".join([*lines, "None converges: try a smaller step."])
        return "\n".join([*lines, f"{best.name} is the better choice."])


@no_annotations
def compare_schemes(*schemes: Scheme, steps: int = 8) -> Comparison:
    """Measure schemes from their present states, and leave these as they are.  Collective.

    Each scheme runs ``steps`` steps, twice as many of half the length and four times as many of
    a quarter: from the differences follow the error and the order, from the clock the time.

    Parameters
    ----------
    *schemes
        :class:`ImplicitStep`, :class:`LieSplitting`, :class:`StrangSplitting`, for the same
        problem from the same state.
    steps
        Number of steps of the present length.

    Returns
    -------
    Comparison
        Print it for a table.
    """
    costs = tuple(_measure(scheme, steps) for scheme in schemes)
    target = min(c.error for c in costs)
    times = [c.seconds_for(target) for c in costs]
    return Comparison(costs, int(np.argmin(times)))


def _measure(scheme: Scheme, steps: int) -> SchemeCost:
    state = _State(scheme)
    name = type(scheme).__name__
    stiffness = scheme.stiffness() if isinstance(scheme, LieSplitting) else None
    try:
        scheme.step()  # what has to be compiled
        runs = [_run(scheme, state, steps, 2**halvings) for halvings in range(3)]
    except fd.ConvergenceError:
        return SchemeCost(name, np.inf, np.inf, 1.0, np.nan, stiffness)
    finally:
        state.restore()
    coarse, fine = (_distance(a.solution, b.solution) for a, b in pairwise(runs))
    order = float(np.clip(np.log2(coarse / fine), 0.5, 6.0)) if min(coarse, fine) > 0 else 1.0
    size = np.sqrt(sum(fd.norm(f) ** 2 for f in runs[2].solution))
    # Where nothing moves, rounding is all the error.
    error = max(float(coarse * 2**order / (2**order - 1)) / max(size, 1e-300), 1e-16)
    return SchemeCost(name, runs[0].seconds, error, order, runs[0].newton_iterations, stiffness)


@dataclass(frozen=True)
class _Run:
    """The solution at the end, and per step the time and Newton's iterations."""

    solution: list[fd.Function]
    seconds: float
    newton_iterations: float


def _run(scheme: Scheme, state: _State, steps: int, parts: int) -> _Run:
    """Steps of the length over ``parts``, from the state."""
    state.restore()
    scheme.dt.assign(state.dt / parts)
    start, iterations, n = clock.perf_counter(), 0, steps * parts
    for _ in range(n):
        scheme.step()
        iterations += scheme.solver.snes.getIterationNumber()
    comm = scheme.previous.function_space().mesh().comm
    seconds = max_over_ranks(comm, clock.perf_counter() - start)
    return _Run([f.copy(deepcopy=True) for f in scheme.solution], seconds / n, iterations / n)


class _State:
    """What a step changes, to go back to."""

    def __init__(self, scheme: Scheme):
        self._functions = [scheme.previous, scheme.solver.problem.u, *scheme.solution]
        self._values = [f.copy(deepcopy=True) for f in self._functions]
        self._scheme = scheme
        self._time = scheme.time
        self._start = None if scheme.time is None else float(scheme.time)
        self.dt = float(scheme.dt)

    def restore(self) -> None:
        """Go back."""
        for function, value in zip(self._functions, self._values, strict=True):
            function.assign(value)
        self._scheme.dt.assign(self.dt)
        if self._time is not None:
            self._time.assign(self._start)


def _distance(a: list[fd.Function], b: list[fd.Function]) -> float:
    return float(np.sqrt(sum(fd.norm(f - g) ** 2 for f, g in zip(a, b, strict=True))))
