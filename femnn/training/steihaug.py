"""Steps of trust-region methods: exact ones, and by conjugate gradients after Steihaug."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.optimize


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


class Spectrum:
    """The minima of a quadratic model in balls around the start, by its matrix's eigenvectors.

    Parameters
    ----------
    matrix
        The model's, shape ``(n, n)``, symmetric.
    gradient
        The model's gradient at the start, shape ``(n,)``.

    References
    ----------
    J. J. More, D. C. Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983).
    """

    def __init__(self, matrix: np.ndarray, gradient: np.ndarray):
        values, vectors = np.linalg.eigh(matrix)
        rounding = np.finfo(float).eps * len(values)
        flat = np.abs(values) < rounding * np.abs(values).max(initial=0.0)
        self._take(values, vectors, flat, gradient)

    @classmethod
    def of_root(cls, root: np.ndarray, gradient: np.ndarray) -> Spectrum:
        """The same of the matrix ``root' root``, whose rounding would be that of its square.

        Parameters
        ----------
        root
            Shape ``(m, n)``, with at least as many rows as columns.
        gradient
            As for the class.
        """
        _, values, vectors = np.linalg.svd(root, full_matrices=False)
        rounding = np.finfo(float).eps * len(values)
        spectrum = cls.__new__(cls)
        flat = values < rounding * values.max(initial=0.0)
        spectrum._take(values**2, vectors.T, flat, gradient)
        return spectrum

    def _take(
        self, values: np.ndarray, vectors: np.ndarray, flat: np.ndarray, gradient: np.ndarray
    ) -> None:
        # Below rounding the matrix says nothing, and the gradient alone counts, where it says more.
        slopes, rounding = vectors.T @ gradient, np.finfo(float).eps * len(values)
        nothing = flat & (np.abs(slopes) <= rounding * np.linalg.norm(gradient))
        self._vectors = vectors
        self._values = np.where(flat, 0.0, values)
        self._slopes = np.where(nothing, 0.0, slopes)

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """The minimum in a ball; see :meth:`Path.step`."""
        lowest = max(0.0, -float(self._values.min(initial=0.0)))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.nan_to_num(-self._slopes / self._values, posinf=np.inf, neginf=-np.inf)
        if lowest > 0 or not np.linalg.norm(step) <= radius:
            step = self._at_edge(radius, lowest)
        fall = -float(self._slopes @ step + 0.5 * step @ (self._values * step))
        return self._vectors @ step, fall

    def _at_edge(self, radius: float, lowest: float) -> np.ndarray:
        """The step of a length, in eigenvectors: with the damping that gives it."""
        size = float(np.linalg.norm(self._slopes))

        def excess(log: float) -> float:
            return float(np.linalg.norm(self._damped(lowest + np.exp(log)))) / radius - 1.0

        # Twice the damping without which the edge is left for sure: rounding cannot matter then.
        top = np.log(max(2 * size / radius, np.finfo(float).tiny))
        bottom = top - 100.0
        damping = scipy.optimize.brentq(excess, bottom, top) if excess(bottom) > 0 else bottom
        return self._damped(lowest + np.exp(damping))

    def _damped(self, damping: float) -> np.ndarray:
        with np.errstate(divide="ignore"):  # infinitely long where nothing bends
            return -self._slopes / (self._values + damping)


class Subspace:
    """The minima of a quadratic model whose matrix is ``rows' rows`` and a diagonal.

    Where the diagonal has one value, its product with a vector in the span of rows and gradient is
    one again; so the parts of these where it has each of its values span all minima.

    Parameters
    ----------
    rows
        Shape ``(m, n)``, zero in entries that do not move.
    diagonal
        Not negative, of few different values, shape ``(n,)``.
    gradient
        The model's gradient at the start, zero where the rows are, shape ``(n,)``.
    """

    def __init__(self, rows: np.ndarray, diagonal: np.ndarray, gradient: np.ndarray):
        vectors = np.vstack([rows, gradient]).T
        values, groups = np.unique(diagonal, return_inverse=True)
        bases, roots = [], []
        for i, value in enumerate(values):
            basis = np.linalg.qr(vectors[groups == i])[0]
            bases.append(np.zeros((len(diagonal), basis.shape[1])))
            bases[-1][groups == i] = basis
            roots += [np.sqrt(value)] * basis.shape[1]
        self._basis = np.hstack(bases)
        root = np.vstack([rows @ self._basis, np.diag(roots)])
        self._spectrum = Spectrum.of_root(root, self._basis.T @ gradient)

    def step(self, radius: float) -> tuple[np.ndarray, float]:
        """The minimum in a ball; see :meth:`Path.step`."""
        step, fall = self._spectrum.step(radius)
        return self._basis @ step, fall


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
