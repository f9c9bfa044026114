"""The controls in coordinates in which their inner product is Euclid's."""

from __future__ import annotations

import numpy as np

from femnn.parallel import vector_from_rank_zero
from femnn.training.bounds import Bounds
from femnn.training.run import Run


class Coordinates:
    """A training as it looks to an optimiser that takes the l2 norm for the controls' own.

    How such an optimiser comes along then depends on the problem, not on the mesh.

    Parameters
    ----------
    run
        The training, which has been started.

    Attributes
    ----------
    bounds : Bounds or None
        The bounds in these coordinates.
    """

    def __init__(self, run: Run):
        controls = run.loss.controls
        self._run, self._metric, self._comm = run, controls.metric, controls.comm
        self._limits, self.bounds = controls.bounds, None
        if self._limits is not None:
            sides = (self._limits.lower, self._limits.upper)
            self.bounds = Bounds(*(self._metric.coordinates(side) for side in sides))
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def best(self) -> np.ndarray:
        """The best point, a new array of shape ``(n,)``.  Collective."""
        return self.at(self._run.loss.best.vector)

    def at(self, x: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
        """Where the controls have these values, a new array of shape ``(n,)``.  Collective.

        Parameters
        ----------
        x
            The values.
        known
            The same from a former process, perhaps with the values in another order of its own,
            which matters where the inner product couples them.
        """
        if known is not None and self._metric.is_diagonal:
            y = known
        else:
            y = self._of_rank_zero(self._metric.coordinates(x))
        self._known = (y, x)  # rounding would make it another point
        return y.copy()

    def point(self, y: np.ndarray) -> np.ndarray:
        """The controls' values, exactly at a bound where the coordinates are."""
        if self._known is not None and np.array_equal(y, self._known[0]):
            return self._known[1]
        x = self._of_rank_zero(self._metric.point(y))
        if self._limits is None or self.bounds is None:
            return x
        x = np.where(y <= self.bounds.lower, self._limits.lower, x)
        x = np.where(y >= self.bounds.upper, self._limits.upper, x)
        return self._limits.clip(x)

    def __call__(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient in these coordinates; see :class:`Run`.  Collective."""
        value, gradient = self._run(self.point(y))
        return value, self.gradient(gradient)

    def accept(self, y: np.ndarray) -> None:
        """An iteration has ended here; see :meth:`Run.accept`.  Collective."""
        self._run.accept(self.point(y))

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """A gradient in these coordinates, from that in the controls' numbers.  Collective."""
        return self._of_rank_zero(self._metric.gradient(g))

    def direction(self, d: np.ndarray) -> np.ndarray:
        """A direction in the controls' numbers, from one in these coordinates."""
        return self._metric.point(d)

    def _of_rank_zero(self, vector: np.ndarray) -> np.ndarray:
        """What is decided by it is decided alike on all ranks."""
        euclids = self._metric.is_euclids
        return vector if euclids else vector_from_rank_zero(self._comm, vector)
