"""A normal posterior from what prior and data say of each direction, and what follows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import scipy.linalg
import scipy.special

from femnn.inference.smooth import variances


class Directions:
    """A normal posterior by directions in which prior and data are diagonal.

    In the units of a prior whose precision is ``C C'`` (a metric), entries are ``x = C'^-1 z``.
    Directions have the precision 1 by the prior, l by the data, 1 + l by both.

    Parameters
    ----------
    spectrum
        The numbers l, shape ``(k,)``, the largest first.
    vectors
        The directions in z, in columns, shape ``(n, k)``, each of prior variance one.
    metric
        The prior's precision.
    neglected
        The largest of the numbers that are left out.
    """

    def __init__(
        self, spectrum: np.ndarray, vectors: np.ndarray, metric: Any, neglected: float = 0.0
    ):
        self.spectrum, self.vectors, self.metric = spectrum, vectors, metric
        self.neglected = neglected

    @property
    def shares(self) -> np.ndarray:
        """Which part of what is known of each direction data say, shape ``(k,)``."""
        return self.spectrum / (1 + self.spectrum)

    @property
    def log_shrinkage(self) -> float:
        """The logarithm of the posterior's volume, relative to the prior's."""
        return -0.5 * float(np.log1p(self.spectrum).sum())

    def known_by_data(self) -> np.ndarray:
        """The variance of each of the numbers z that data take away, shape ``(n,)``."""
        return self.vectors**2 @ self.shares

    def half(self, gradients: np.ndarray) -> np.ndarray:
        """``F' g`` for columns g, with the covariance ``F F'`` of the entries."""
        raise NotImplementedError

    def prior_half(self, gradients: np.ndarray) -> np.ndarray:
        """The same with the prior's covariance."""
        raise NotImplementedError

    def changes(self, numbers: np.ndarray) -> np.ndarray:
        """``F z`` for columns of independent normal numbers."""
        raise NotImplementedError

    def variances(self) -> np.ndarray:
        """The variance of each entry, shape ``(n,)``."""
        raise NotImplementedError

    def spread(self, gradients: np.ndarray) -> np.ndarray:
        """The standard deviation of linear functions, of which gradients are the columns."""
        return np.linalg.norm(self.half(gradients), axis=0)


class Gaussian(Directions):
    """The posterior with all directions.

    Parameters
    ----------
    prior, data
        What both add to the precision in z, shape ``(n, n)``, the first positive definite.
    metric
        What z is measured in.

    Attributes
    ----------
    factor : numpy.ndarray
        What times its transpose is the covariance of the entries, shape ``(n, n)``: the one by
        Cholesky, which no choice of eigenvectors changes.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the prior's precision is not positive definite, or that of both together is not.
    """

    def __init__(self, prior: np.ndarray, data: np.ndarray, metric: Any):
        lower = np.linalg.cholesky(prior)
        half = scipy.linalg.solve_triangular(lower, data, lower=True)
        whitened = scipy.linalg.solve_triangular(lower, half.T, lower=True)
        values, own = np.linalg.eigh(0.5 * (whitened + whitened.T))
        values, own = values[::-1], own[:, ::-1]
        if values[-1] <= -1:
            raise np.linalg.LinAlgError("not a minimum")
        # Gauss-Newton's matrix is not negative but by rounding.
        small = np.finfo(float).eps * len(values) * np.abs(values).max(initial=0.0)
        values = np.where(np.abs(values) <= small, 0.0, values)
        super().__init__(values, scipy.linalg.solve_triangular(lower.T, own), metric)
        # Eigenvalues are right to rounding of the largest, a Cholesky factor to that of each.
        upper = np.linalg.cholesky(prior + data).T
        self.factor = metric.point(scipy.linalg.solve_triangular(upper, np.eye(len(values))))

    def half(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self.factor.T @ gradients

    def prior_half(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self.vectors.T @ self.metric.gradient(gradients)

    def changes(self, numbers: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self.factor @ numbers

    def variances(self) -> np.ndarray:
        """See :class:`Directions`."""
        return (self.factor**2).sum(1)


class LowRank(Directions):
    """The posterior with the directions that data say most of; the others have the prior's law.

    Its vectors are orthonormal.
    """

    def half(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self._shrunk(self.metric.gradient(gradients))

    def prior_half(self, gradients: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self.metric.gradient(gradients)

    def changes(self, numbers: np.ndarray) -> np.ndarray:
        """See :class:`Directions`."""
        return self.metric.point(self._shrunk(numbers))

    def variances(self) -> np.ndarray:
        """See :class:`Directions`."""
        taken = self.metric.point(self.vectors) ** 2 @ self.shares
        return variances(self.metric, len(self.vectors)) - taken

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """The covariance in z times a vector."""
        return z - self.vectors @ (self.shares * (self.vectors.T @ z))

    def _shrunk(self, z: np.ndarray) -> np.ndarray:
        along = (1 - 1 / np.sqrt(1 + self.spectrum)) * (self.vectors.T @ z).T
        return z - self.vectors @ along.T


@dataclass(frozen=True)
class Normal:
    """Normal densities of numbers or of a field, each for itself.

    Attributes
    ----------
    mean, std : numpy.ndarray or firedrake.Function
        Means and standard deviations, arrays of one shape, or Functions on one space.
    """

    mean: Any
    std: Any

    def quantile(self, probability: float) -> Any:
        """What lies below with a probability.

        Parameters
        ----------
        probability
            Between 0 and 1.

        Returns
        -------
        numpy.ndarray or firedrake.Function
            As :attr:`mean`, of its shape or on its space.

        Raises
        ------
        ValueError
            If it is no probability.
        """
        if not 0 < probability < 1:
            raise ValueError(f"quantile got {probability!r}: wanted a probability, such as 0.95.")
        distance = float(scipy.special.ndtri(probability))
        if isinstance(self.mean, fd.Function):
            result = self.mean.copy(deepcopy=True)
            result.dat.data_wo[...] = self.mean.dat.data_ro + distance * self.std.dat.data_ro
            return result
        return self.mean + distance * self.std

    def interval(self, level: float = 0.9) -> tuple[Any, Any]:
        """The central interval of a probability.

        Parameters
        ----------
        level
            The probability, between 0 and 1.

        Returns
        -------
        lower, upper : numpy.ndarray or firedrake.Function
            As :attr:`mean`, of its shape or on its space.

        Raises
        ------
        ValueError
            If it is no probability.
        """
        return self.quantile(0.5 - 0.5 * level), self.quantile(0.5 + 0.5 * level)
