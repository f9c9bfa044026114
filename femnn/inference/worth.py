"""What each place of observation is worth: how much surer a quantity is with it.  Collective."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from pyadjoint import AdjFloat

from femnn.inference.gaussian import Gaussian
from femnn.inference.terms import LARGEST, Expansion, Terms
from femnn.observation.table import Table
from femnn.tape.columns import tangent_matrix
from femnn.tape.model import is_computed_on
from femnn.tape.squares import SumOfSquares
from femnn.tape.vector import Vector


def data_worth(terms: Terms, at: Expansion, value: Any) -> Table:
    """The standard deviation of a quantity without and with the data of each place.  Collective.

    Parameters
    ----------
    terms
        What the functional is the sum of.
    at
        Its expansion.
    value
        A recorded number, or a vector of observations.

    Returns
    -------
    Table
        See ``LaplacePosterior.data_worth``.
    """
    _check(terms, at, value)
    terms.evaluate(at.vector)
    # In these directions the prior is one.
    directions = terms.controls.rows(at.gaussian.metric.point(at.gaussian.vectors))
    quantity = _tangent(terms, value, directions)
    parts = _of_places(terms, directions)
    known = sum(parts.values(), np.zeros((quantity.shape[1],) * 2))

    def std(information: np.ndarray) -> float:
        """Root mean square over the quantity's numbers."""
        precision = np.eye(len(information)) + information
        lower = np.linalg.cholesky(0.5 * (precision + precision.T))
        spread = scipy.linalg.solve_triangular(lower, quantity.T, lower=True)
        return float(np.sqrt((spread**2).sum() / len(quantity)))

    full, prior = std(known), std(np.zeros_like(known))
    without = [*(std(known - part) for part in parts.values()), prior]
    alone = [*(std(part) for part in parts.values()), full]
    worth = [1 - (full / other) ** 2 if other > 0 else 0.0 for other in without]
    columns = {"std without": without, "std alone": alone, "worth": worth}
    return Table(columns, [*parts, "all"], title="data worth")


def _check(terms: Terms, at: Expansion, value: Any) -> None:
    if not isinstance(at.gaussian, Gaussian):
        raise ValueError(
            "data_worth: the posterior has a low rank, and it takes all directions: "
            f"laplace(Jhat) without rank, of at most {LARGEST} numbers."
        )
    if not isinstance(value, (AdjFloat, Vector)):
        raise TypeError(
            f"data_worth got a {type(value).__name__}: wanted a recorded number, such as a "
            "functional, or the values of an observable, as in stations(u)."
        )
    if not is_computed_on(value, terms.Jhat.tape):
        raise ValueError(
            "data_worth: no block on the functional's tape computes the value: record it with the "
            "model, between continue_annotation() and pause_annotation()."
        )


def _of_places(terms: Terms, directions: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What the data of each place add to the precision, in the prior's units."""
    found: dict[str, np.ndarray] = {}
    for block in terms.data:
        if not isinstance(block, SumOfSquares):
            raise ValueError(
                "data_worth: the functional has an ensemble, whose members' data are on tapes of "
                "their own: record all models on one tape, without femnn.ensemble."
            )
        rows = _weighted_tangent(terms, block, directions)
        names = np.asarray(block.density.places)
        for name in dict.fromkeys(block.density.places):
            own = rows[names == name]
            found[name] = found.get(name, 0.0) + own.T @ own
    return found


def _weighted_tangent(
    terms: Terms, block: SumOfSquares, directions: list[np.ndarray]
) -> np.ndarray:
    """The residuals' derivative, of which the square is the Gauss-Newton matrix."""
    weights = np.sqrt(block.weight(block.residuals))
    return weights[:, None] * _tangent(terms, block.node.output, directions)


def _tangent(terms: Terms, value: Any, directions: list[np.ndarray]) -> np.ndarray:
    tangent = tangent_matrix(value, terms.Jhat.controls, terms.Jhat.tape, directions)
    if tangent is None:
        raise RuntimeError(
            "data_worth: the model has no derivative for all controls at once: record it without "
            "enable_checkpointing."
        )
    return np.atleast_2d(tangent)
