"""Steps of trust-region methods by conjugate gradients, after Steihaug."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Corner:
    """Where the path of conjugate gradients turns.

    Attributes
    ----------
    step
        From the path's start, shape ``(n,)``.
    value, slope, curvature
        Of the quadratic model here, and along the piece that follows.
    direction
        Of that piece; zero at the path's end.
    """

    step: np.ndarray
    value: float
    direction: np.ndarray
    slope: float
    curvature: float


class Path:
    """The way of conjugate gradients to the minimum of a quadratic model.

    Kept, so that a step for a smaller trust region costs no product.  The steps grow along the
    way, and the model falls.

    Parameters
    ----------
    product
        Of the model's matrix with a vector.
    gradient
        The model's gradient at the start, shape ``(n,)``.
    radius
        How far the path goes at most.
    tolerance
        Where the gradient's norm has fallen to this part of the first, the path ends.
    most
        Number of products at most.

    References
    ----------
    T. Steihaug, SIAM J. Numer. Anal. 20 (1983).
    """

    def __init__(
        self,
        product: Callable[[np.ndarray], np.ndarray],
        gradient: np.ndarray,
        radius: float,
        tolerance: float,
        most: int,
    ):
        self._corners = list(_corners(product, gradient, radius, tolerance, most))

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """The last point of the path within a radius, and how far the model falls there.

        Parameters
        ----------
        radius
            Positive.

        Returns
        -------
        step : numpy.ndarray
            Shape ``(n,)``.
        fall : float
            Positive.
        """
        within = [c for c in self._corners if np.linalg.norm(c.step) < radius]
        last = within[-1]
        longest = _until(last.step, last.direction, radius)
        best = -last.slope / last.curvature if last.curvature > 0 else np.inf
        length = min(longest, best) if last.slope < 0 else 0.0
        value = last.value + length * last.slope + 0.5 * length**2 * last.curvature
        return last.step + length * last.direction, -value


def _corners(
    product: Callable[[np.ndarray], np.ndarray],
    gradient: np.ndarray,
    radius: float,
    tolerance: float,
    most: int,
) -> Iterator[Corner]:
    step, value, residual = np.zeros_like(gradient), 0.0, gradient.copy()
    direction, first = -residual, float(np.linalg.norm(residual))
    for _ in range(most):
        changed = product(direction)
        slope, curvature = float(residual @ direction), float(direction @ changed)
        yield Corner(step, value, direction, slope, curvature)
        if curvature <= 0 or np.linalg.norm(step) >= radius:
            return
        length = -slope / curvature
        step = step + length * direction
        value += 0.5 * length * slope
        before, residual = residual, residual + length * changed
        size = float(residual @ residual)
        if np.sqrt(size) <= tolerance * first:
            break
        direction = -residual + size / float(before @ before) * direction
    yield Corner(step, value, np.zeros_like(step), 0.0, 0.0)


def _until(start: np.ndarray, direction: np.ndarray, radius: float) -> float:
    """The length at which a ray leaves a ball."""
    a, b = float(direction @ direction), float(start @ direction)
    c = float(start @ start) - radius**2
    return (-b + np.sqrt(max(b * b - a * c, 0.0))) / a if a > 0 else 0.0
