"""Gauss and Newton's method, and Newton's, with conjugate gradients in a trust region."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from femnn.training.coordinates import Coordinates
from femnn.training.curvature import Curvature
from femnn.training.data_space import DataSpace
from femnn.training.result import Outcome
from femnn.training.run import Optimiser, Run
from femnn.training.settings import check_number, check_whole
from femnn.training.steihaug import Path, Spectrum, Subspace

OPTIONS = ("cgtol", "maxcg")
# The Hessian is not positive far from a minimum: first iterations with Gauss and Newton's part.
FIRST = 5
ACCEPTED = 1e-4  # the least part of the fall that the model foresees
SMALLEST = 1e-12  # a trust region's, relative to the controls


def minimise(run: Run, exact: bool) -> Outcome:
    """Minimise by trust regions; with ``exact`` by the Hessian from the sixth iteration on."""
    method = _Method(run)
    while run.left > 0:
        method.curvature.exact = exact and run.iterations >= FIRST
        if not method.iterate():
            return Outcome("no progress", "No step lowers the loss by more than rounding.")
    return run.out_of_iterations()


class _Method:
    """The state between iterations: the point, its gradient, the trust region."""

    def __init__(self, run: Run):
        self._run = run
        self._coordinates = Coordinates(run)
        self.curvature = Curvature(run.loss, self._coordinates)
        self._data = DataSpace(run.loss, self._coordinates)
        known = run.known
        if known is None:
            self._y = self._coordinates.best()
        else:
            self._y = self._coordinates.at(run.accepted, known["y"].numpy())
        self._value, self._gradient = self._coordinates(self._y)
        self._first = float(np.linalg.norm(self._gradient))
        self._radius = max(1.0, float(np.linalg.norm(self._y)), run.loss.controls.length)
        if known is not None:
            self._first, self._radius = known["first"], known["radius"]
        run.remember(self._memory)

    def _memory(self) -> dict[str, Any]:
        return {"y": torch.tensor(self._y), "first": self._first, "radius": float(self._radius)}

    def iterate(self) -> bool:
        """One accepted step; whether there was one."""
        bounds = self._coordinates.bounds
        g = self._gradient if bounds is None else bounds.free(self._y, self._gradient)
        free = g == self._gradient
        path = self._steps(g, free)
        while self._radius > SMALLEST * max(1.0, float(np.linalg.norm(self._y))):
            step, foreseen = path.step(self._radius)
            step = np.where(free, step, 0.0)  # rounding would take an entry off its bound
            trial = self._inside(self._y + step)
            if not np.array_equal(trial, self._y + step):  # the model knows no bounds
                foreseen = -0.5 * float(self._gradient @ (trial - self._y))
            if foreseen <= 0 or np.array_equal(trial, self._y):
                return False
            value, gradient = self._try(trial)
            ratio = (self._value - value) / foreseen
            self._adapt(ratio, float(np.linalg.norm(step)))
            if ratio > ACCEPTED:
                self._y, self._value, self._gradient = trial, value, gradient
                self._coordinates.accept(trial)
                return True
        return False

    def _steps(self, g: np.ndarray, free: np.ndarray) -> Path | Subspace | Spectrum:
        """The model's minima for all radii, in the entries that no bound holds back."""
        options = self._run.settings.options
        if not options:  # they are of conjugate gradients
            exact = self._exact_steps(g, free)
            if exact is not None:
                return exact
        tolerance, most = options.get("cgtol", self._tolerance(g)), options.get("maxcg", 200)
        return Path(lambda d: free * self.curvature(d), g, self._radius, tolerance, most)

    def _exact_steps(self, g: np.ndarray, free: np.ndarray) -> Subspace | Spectrum | None:
        """Exact minima, where they are less work than products."""
        if self.curvature.exact:
            return None
        by_data = self._data.steps(g, free, self.curvature.has_matrix)
        if by_data is not None:
            return by_data
        matrix = self.curvature.matrix()
        return None if matrix is None else Spectrum(matrix * np.outer(free, free), g)

    def _tolerance(self, gradient: np.ndarray) -> float:
        """How exact a step is, where the user does not say.

        Data determine combinations of a network's weights by many orders of magnitude differently,
        and steps that are not exact leave the lesser ones as they are.
        """
        if self._run.loss.controls.are_weights:
            return 1e-8
        return min(0.5, float(np.sqrt(np.linalg.norm(gradient) / self._first)))

    def _inside(self, y: np.ndarray) -> np.ndarray:
        bounds = self._coordinates.bounds
        return y if bounds is None else bounds.clip(y)

    def _try(self, trial: np.ndarray) -> tuple[float, np.ndarray]:
        rejected = self._run.loss.rejected
        value, gradient = self._coordinates(trial)
        return (value, gradient) if self._run.loss.rejected == rejected else (np.inf, gradient)

    def _adapt(self, ratio: float, length: float) -> None:
        if ratio < 0.25:
            self._radius = 0.25 * length
        elif ratio > 0.75 and length > 0.9 * self._radius:
            self._radius *= 2.5


def _check(options: Mapping[str, Any]) -> None:
    check_whole("options['maxcg']", options.get("maxcg", 1), least=1)
    check_number("options['cgtol']", options.get("cgtol", 0.0), least=0.0)


def _method(exact: bool) -> Optimiser:
    return Optimiser(
        partial(minimise, exact=exact),
        uses=("ftol",),
        options=OPTIONS,
        check=_check,
        takes_bounds=True,
        remembers=True,
    )


GAUSS_NEWTON, NEWTON_CG = _method(exact=False), _method(exact=True)
