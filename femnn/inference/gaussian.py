"""A normal posterior from what prior and data say of each direction.  Needs numpy and SciPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import firedrake as fd
import numpy as np
import scipy.linalg
import scipy.special


class Gaussian:
    """The normal density whose precision is the sum of the prior's and of what data add.

    Directions are the eigenvectors of the data's part in the prior's units, in which both are
    diagonal: prior 1, data l, posterior 1 / (1 + l).

    Parameters
    ----------
    prior
        The prior's precision, shape ``(n, n)``, positive definite.
    data
        The data's, shape ``(n, n)``, positive semidefinite.

    Attributes
    ----------
    spectrum : numpy.ndarray
        The numbers l, shape ``(n,)``, the largest first.
    directions : numpy.ndarray
        The directions in columns, shape ``(n, n)``, each of prior variance one.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the prior's precision is not positive definite.
    """

    def __init__(self, prior: np.ndarray, data: np.ndarray):
        lower = np.linalg.cholesky(prior)
        half = scipy.linalg.solve_triangular(lower, data, lower=True)
        whitened = scipy.linalg.solve_triangular(lower, half.T, lower=True)
        values, vectors = np.linalg.eigh(0.5 * (whitened + whitened.T))
        self.spectrum = np.maximum(values[::-1], 0.0)
        self._vectors = vectors[:, ::-1]
        self.directions = scipy.linalg.solve_triangular(lower.T, self._vectors)

    @property
    def factor(self) -> np.ndarray:
        """What times its transpose is the covariance, shape ``(n, n)``.

        Of all such that which no choice of eigenvectors changes.
        """
        return self.directions / np.sqrt(1 + self.spectrum) @ self._vectors.T

    @property
    def shares(self) -> np.ndarray:
        """Which part of what is known of each direction data say, shape ``(n,)``."""
        return self.spectrum / (1 + self.spectrum)

    @property
    def log_shrinkage(self) -> float:
        """The logarithm of the posterior's volume, relative to the prior's; not positive."""
        return -0.5 * float(np.log1p(self.spectrum).sum())

    def known_by_data(self) -> np.ndarray:
        """The prior variance of each entry that data take away, shape ``(n,)``."""
        return self.directions**2 @ self.shares


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
