"""Runge-Kutta steps of pointwise ordinary differential equations.  Needs torch and numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from femnn.evaluation.derivatives import input_derivatives

__all__ = ["METHODS", "RungeKutta"]

MAX_ITERATIONS = 50
# After convergence each further Newton step that is differentiated doubles the number of
# derivatives that are exact, plus one: two give those up to the third.
DIFFERENTIATED_ITERATIONS = 2


@dataclass(frozen=True)
class Tableau:
    """Butcher's coefficients of a method whose stages can be found one after the other."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    @property
    def c(self) -> tuple[float, ...]:
        """The stages' times."""
        return tuple(sum(row) for row in self.a)


_ALEXANDER = 1 - 2**-0.5

METHODS = {
    "forward_euler": Tableau(((0.0,),), (1.0,), 1),
    "heun": Tableau(((0.0,), (1.0, 0.0)), (0.5, 0.5), 2),
    "rk4": Tableau(
        ((0.0,), (0.5, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 1.0, 0.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4
    ),
    "backward_euler": Tableau(((1.0,),), (1.0,), 1),
    "implicit_midpoint": Tableau(((0.5,),), (1.0,), 2),
    "sdirk2": Tableau(
        ((_ALEXANDER,), (1 - _ALEXANDER, _ALEXANDER)), (1 - _ALEXANDER, _ALEXANDER), 2
    ),
}


class RungeKutta(nn.Module):
    """One step of dy/dt = net(y, p, t) at many points, each on its own.

    Maps ``(points, inputs)`` to ``(points, n_unknowns)``: the inputs are the unknowns y, what
    else the rate depends on, p, with ``timed=True`` the time t at the step's start, and the
    step's length in the last column.  All of them can be differentiated, twice.

    Parameters
    ----------
    net
        The rate: a module that maps ``(points, n_unknowns + ...)`` to ``(points, n_unknowns)``.
    n_unknowns
        Number of unknowns of each point.
    method
        Explicit: ``"forward_euler"``, ``"heun"`` (order 2), ``"rk4"`` (order 4).  Implicit, for
        stiff rates: ``"backward_euler"``, ``"implicit_midpoint"`` (order 2), ``"sdirk2"``
        (order 2 and L-stable; R. Alexander, SIAM J. Numer. Anal. 14, 1977).
    substeps
        Number of equal steps in which the length is passed.
    timed
        Whether the rate depends on time; t is then its last input.

    Raises
    ------
    ValueError
        If the method is unknown or ``substeps`` is not a positive whole number.

    Notes
    -----
    Implicit stages are found by Newton's method at all points at once, damped at points where a
    step makes the residual larger.  Where it does not converge the values are NaN.
    """

    def __init__(
        self,
        net: nn.Module,
        n_unknowns: int,
        method: str = "rk4",
        substeps: int = 1,
        timed: bool = False,
    ):
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown: use one of {', '.join(METHODS)}.")
        if substeps != int(substeps) or substeps < 1:
            raise ValueError(f"substeps={substeps}: wanted a positive whole number.")
        self.net = net
        self.n_unknowns = n_unknowns
        self.method = method
        self.tableau = METHODS[method]
        self.substeps = substeps
        self.timed = timed

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to the unknowns after the step, ``(points, n_unknowns)``."""
        m = self.n_unknowns
        y, rest, dt = x[:, :m], x[:, m:-1], x[:, -1:] / self.substeps
        t = rest[:, -1:]
        rest = rest[:, :-1] if self.timed else rest
        for _ in range(self.substeps):
            y = self._step(y, rest, t, dt)
            t = t + dt
        return y

    def _step(self, y: Tensor, rest: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        stages: list[Tensor] = []
        for row, c in zip(self.tableau.a, self.tableau.c, strict=True):
            start = y + dt * _combined(row, stages, y)
            diagonal = row[len(stages)]
            at = t + c * dt
            if diagonal == 0.0:
                stages.append(self._rate(start, rest, at))
            else:
                stages.append(self._implicit_stage(start, diagonal * dt, rest, at))
        return y + dt * _combined(self.tableau.b, stages, y)

    def _rate(self, y: Tensor, rest: Tensor, t: Tensor) -> Tensor:
        rate = self.net(torch.cat([y, rest, t] if self.timed else [y, rest], dim=1))
        if rate.shape != y.shape:
            raise ValueError(
                f"the rate {type(self.net).__name__} returned {tuple(rate.shape[1:])} values for "
                f"each point, wanted {self.n_unknowns}: one for each unknown's component."
            )
        return rate

    def _implicit_stage(self, start: Tensor, h: Tensor, rest: Tensor, t: Tensor) -> Tensor:
        """The k with k = rate(start + h k)."""
        with torch.no_grad():
            k = self._converged(*(v.detach() for v in (start, h, rest, t)))
        if torch.is_grad_enabled():
            for _ in range(DIFFERENTIATED_ITERATIONS):
                k = k + _solved(*self._linearised(k, start, h, rest, t))
        return k

    def _converged(self, start: Tensor, h: Tensor, rest: Tensor, t: Tensor) -> Tensor:
        """The stage by Newton's method, damped where a step makes the residual larger."""
        rounding, smallest = torch.finfo(start.dtype).eps, torch.finfo(start.dtype).tiny
        enough = min(1e6 * rounding, rounding**0.5)
        k = torch.zeros_like(start)  # then the first iterate is linearly implicit
        residual, matrix = self._linearised(k, start, h, rest, t)
        size, damping = torch.full_like(k, torch.inf), torch.ones_like(h)
        for _ in range(MAX_ITERATIONS):
            change = _solved(residual, matrix)
            # What does not change the unknown in its last digits is rounding of the rate.
            scale = h.abs() * (1 + k.abs()) + start.abs()
            last, size = size, h.abs() * change.abs() / scale.clamp(min=smallest)
            # Done, or so close that rounding alone moves it.
            done = (size <= 100 * rounding) | ((size <= enough) & (size >= 0.5 * last))
            if bool(done.all()):
                k = k + change
                break
            trial = k + damping * change
            there, slope = self._linearised(trial, start, h, rest, t)
            better = _norm(there) < _norm(residual)  # not where it is not a number
            taken = better | done.all(dim=1, keepdim=True)
            k, residual = torch.where(taken, trial, k), torch.where(taken, there, residual)
            matrix = torch.where(taken[:, :, None], slope, matrix)
            damping = torch.where(taken, (2 * damping).clamp(max=1.0), damping / 2)
        converged = (size <= enough).all(dim=1, keepdim=True)
        return torch.where(converged, k, torch.full_like(k, torch.nan))

    def _linearised(
        self, k: Tensor, start: Tensor, h: Tensor, rest: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The residual rate(start + h k) - k and minus its derivative in k."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            y = start + h * k
            y = y if graph and y.requires_grad else y.detach().requires_grad_(True)
            rate = self._rate(y, rest, t)
            rows = list(input_derivatives(rate, y, keep_graph=True, differentiable=graph))
        jacobian = torch.stack(rows, dim=1)
        identity = torch.eye(self.n_unknowns, dtype=y.dtype, device=y.device)
        residual = rate - k if graph else (rate - k).detach()
        return residual, identity - h[:, :, None] * jacobian


def _solved(residual: Tensor, matrix: Tensor) -> Tensor:
    return torch.linalg.solve_ex(matrix, residual[:, :, None])[0][:, :, 0]


def _norm(residual: Tensor) -> Tensor:
    return torch.linalg.vector_norm(residual, dim=1, keepdim=True)


def _combined(row: tuple[float, ...], stages: list[Tensor], like: Tensor) -> Tensor:
    terms = [a * k for a, k in zip(row, stages, strict=False) if a != 0.0]
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(like)
