"""What a weighted residual costs: its square, or less where it may be an outlier.

A loss rho is even and grows as r^2 / 2 near zero.  Gauss-Newton methods take rho'(r) / r for the
weight of a residual (iteratively reweighted least squares), which is never negative.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Loss(Protocol):
    """A loss of a residual, entry by entry of arrays of any shape."""

    def value(self, r: np.ndarray) -> np.ndarray:
        """The loss, of the shape of ``r``."""

    def slope(self, r: np.ndarray) -> np.ndarray:
        """Its derivative, of the shape of ``r``."""

    def bend(self, r: np.ndarray) -> np.ndarray:
        """Its second derivative, of the shape of ``r``."""

    def weight(self, r: np.ndarray) -> np.ndarray:
        """The slope divided by ``r``, of the shape of ``r``."""


class Squares:
    """Half the square: minus the logarithm of a normal density, up to a constant."""

    def value(self, r: np.ndarray) -> np.ndarray:
        """The loss, of the shape of ``r``."""
        return 0.5 * r**2

    def slope(self, r: np.ndarray) -> np.ndarray:
        """Its derivative, of the shape of ``r``."""
        return r

    def bend(self, r: np.ndarray) -> np.ndarray:
        """Its second derivative, of the shape of ``r``."""
        return np.ones_like(r)

    weight = bend


class Huber:
    """Half the square of residuals up to a width, linear beyond: outliers count less.

    Parameters
    ----------
    width
        In standard deviations.  With the default, and normal errors, estimates are 5 % less exact
        than with squares.

    Raises
    ------
    ValueError
        If the width is not a positive number.

    References
    ----------
    P. J. Huber: Robust estimation of a location parameter, Ann. Math. Statist. 35 (1964).

    Examples
    --------
    >>> data = Observations(stations, values, std=0.1, loss=Huber())
    """

    def __init__(self, width: float = 1.345):
        self.width = _positive("Huber", "width", width)

    def __repr__(self) -> str:
        return f"Huber({self.width:g})"

    def value(self, r: np.ndarray) -> np.ndarray:
        """The loss.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        size = np.abs(r)
        return np.where(size <= self.width, 0.5 * r**2, self.width * (size - 0.5 * self.width))

    def slope(self, r: np.ndarray) -> np.ndarray:
        """The loss's derivative.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return np.clip(r, -self.width, self.width)

    def bend(self, r: np.ndarray) -> np.ndarray:
        """The loss's second derivative.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return (np.abs(r) <= self.width).astype(float)

    def weight(self, r: np.ndarray) -> np.ndarray:
        """The slope divided by the residual.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return self.width / np.maximum(np.abs(r), self.width)


class StudentT:
    """Minus the logarithm of Student's t density, up to a constant: outliers hardly count.

    Parameters
    ----------
    dof
        Degrees of freedom: 4 is usual, 1 for data with many outliers; the more, the nearer to
        squares.

    Raises
    ------
    ValueError
        If it is not a positive number.

    Notes
    -----
    A residual's scale is the standard deviation that the observations have; that of the t density
    is larger by sqrt(dof / (dof - 2)).  The loss is not convex, so start near enough.

    References
    ----------
    K. L. Lange, R. J. A. Little, J. M. G. Taylor: Robust statistical modeling using the t
    distribution, J. Amer. Statist. Assoc. 84 (1989).

    Examples
    --------
    >>> data = Observations(stations, values, std=0.1, loss=StudentT(4))
    """

    def __init__(self, dof: float = 4.0):
        self.dof = _positive("StudentT", "dof", dof)

    def __repr__(self) -> str:
        return f"StudentT({self.dof:g})"

    def value(self, r: np.ndarray) -> np.ndarray:
        """The loss.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return 0.5 * (self.dof + 1) * np.log1p(r**2 / self.dof)

    def slope(self, r: np.ndarray) -> np.ndarray:
        """The loss's derivative.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return self.weight(r) * r

    def bend(self, r: np.ndarray) -> np.ndarray:
        """The loss's second derivative; negative beyond sqrt(dof).

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return (self.dof + 1) * (self.dof - r**2) / (self.dof + r**2) ** 2

    def weight(self, r: np.ndarray) -> np.ndarray:
        """The slope divided by the residual.

        Parameters
        ----------
        r
            Weighted residuals, of any shape.

        Returns
        -------
        numpy.ndarray
            Of the shape of ``r``.
        """
        return (self.dof + 1) / (self.dof + r**2)


def _positive(who: str, name: str, value: float) -> float:
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{who} got {name}={value!r}: wanted a positive number.")
    return number
