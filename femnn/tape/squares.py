"""Sums of squares of residuals on the tape, where Gauss-Newton methods find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyadjoint import AdjFloat, Tape
from pyadjoint.tape import annotate_tape

from femnn.tape.losses import Loss, Squares
from femnn.tape.model import blocks_behind
from femnn.tape.sums import EntrywiseSum
from femnn.tape.vector import TotalBlock, Vector, recorded


@dataclass(frozen=True)
class Density:
    """What minus the log likelihood of data has beside the sum of squares.

    Attributes
    ----------
    scale
        A Constant or a Function on the Real space, by which all errors are multiplied, where
        there is one; the functional has the logarithm of it then.
    constant
        What the functional lacks.
    places
        The name of the place of each residual; empty where they have none.
    """

    scale: Any = None
    constant: float = 0.0
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What misfits are at a point.

    Attributes
    ----------
    n
        The number of data.
    squares
        The sum of squared weighted residuals.
    constant
        What the functional lacks of minus the log likelihood.
    robust
        The loss that is not half the square, as a text; empty where there is none.
    """

    n: int
    squares: float
    constant: float
    robust: str


def sum_of_squares(
    residuals: Vector, loss: Loss | None = None, density: Density | None = None
) -> AdjFloat:
    """Half the sum of squared residuals, or the sum of their losses; recorded on the tape.

    Parameters
    ----------
    residuals
        Weighted residuals.
    loss
        What a residual costs; half its square by default.
    density
        What the likelihood has beside; by default what it has of errors of size one.
    """
    loss = Squares() if loss is None else loss
    if annotate_tape():
        return recorded(SumOfSquares(residuals, loss, density))
    return AdjFloat(loss.value(residuals.vector).sum())


def sum_of_logarithms(log_errors: Vector) -> AdjFloat:
    """The logarithms of the errors' sizes together, a part of the likelihood; recorded.

    Parameters
    ----------
    log_errors
        The logarithm for each datum.
    """
    if annotate_tape():
        return recorded(LogErrors(log_errors))
    return log_errors.sum()


class LogErrors(TotalBlock):
    """What a likelihood has beside its squares where errors are estimated.

    Gauss-Newton's matrix has nothing of it.
    """

    def __str__(self) -> str:
        return "sum of log errors"


def squares_behind(functional: Any, tape: Tape) -> list[SumOfSquares]:
    """The sums of squares that a functional is computed from, the last first."""
    return [b for b in blocks_behind(functional, tape) if isinstance(b, SumOfSquares)]


class SumOfSquares(EntrywiseSum):
    """Half the sum of squared residuals, or the sum of their losses.

    A Gauss-Newton method takes the residuals and their tangent-linear values from :attr:`node`,
    and seeds its adjoint with :meth:`curvature` times these, times the output's adjoint value:
    :meth:`evaluate_gauss_newton` does so.

    Parameters
    ----------
    residuals
        Weighted residuals.
    loss
        What a residual costs.
    density
        As for :func:`sum_of_squares`.

    Attributes
    ----------
    density : Density
        What the likelihood has beside.
    shift : numpy.ndarray
        What is added to the residuals, shape ``(n_residuals,)`` or ``(1,)``: data drawn anew.
    """

    def __init__(self, residuals: Vector, loss: Loss, density: Density | None = None):
        super().__init__(residuals)
        self.loss, self.shift = loss, np.zeros(1)
        self.density = density or Density(constant=0.5 * len(residuals) * np.log(2 * np.pi))

    def __str__(self) -> str:
        return "sum of squares"

    @property
    def scale(self) -> Any:
        """A Constant or a Function by which all errors are multiplied, or ``None``."""
        return self.density.scale

    @property
    def residuals(self) -> np.ndarray:
        """The weighted residuals where the tape was evaluated last, shape ``(n_residuals,)``."""
        return self.node.saved_output.vector

    def summary(self) -> Summary:
        """The misfit where the tape was evaluated last."""
        r, robust = self.residuals, "" if isinstance(self.loss, Squares) else repr(self.loss)
        return Summary(len(r), float(r @ r), self.density.constant, robust)

    def total(self, x: np.ndarray) -> float:
        return self.loss.value(x + self.shift).sum()

    def slope(self, x: np.ndarray) -> np.ndarray:
        return self.loss.slope(x + self.shift)

    def bend(self, x: np.ndarray) -> np.ndarray:
        return self.loss.bend(x + self.shift)

    def weight(self, x: np.ndarray) -> np.ndarray:
        return self.loss.weight(x + self.shift)
