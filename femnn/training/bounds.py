"""Lower and upper bounds of controls, and the gradient that they leave free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from femnn.parallel import on_all_ranks, vector_from_rank_zero
from femnn.training.kinds import Kind


class Bounds:
    """Lower and upper bounds of a vector of controls.

    Parameters
    ----------
    lower, upper
        Shape ``(n,)``, the same on every rank; infinite where there is none.
    """

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        self.lower, self.upper = lower, upper

    def clip(self, vector: np.ndarray) -> np.ndarray:
        """The nearest vector between the bounds."""
        return np.clip(vector, self.lower, self.upper)

    def free(self, vector: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient, zero where the entry is at a bound that descent would leave."""
        stuck = (vector <= self.lower) & (gradient > 0) | (vector >= self.upper) & (gradient < 0)
        return np.where(stuck, 0.0, gradient)


def bounds_of(kinds: Sequence[Kind], bounds: Any, comm: MPI.Comm) -> Bounds:
    """The bounds of all controls, from what users give.  Collective.

    Parameters
    ----------
    kinds
        The controls.
    bounds
        A pair ``(lower, upper)`` for one control, or a list of one pair for each; see
        :func:`femnn.fit`.
    comm
        The ranks.

    Raises
    ------
    TypeError, ValueError
        If there is not one pair for each control, a bound is of another kind or shape or is NaN,
        or a lower bound is above the upper one.
    RuntimeError
        On the ranks where the bounds are right, if they are not on another.
    """
    elsewhere = "fit: another rank got bounds that cannot be used."
    sides = on_all_ranks(comm, _own_sides, kinds, bounds, elsewhere=elsewhere)
    lower, upper = (
        [kind.gather(own) for kind, own in zip(kinds, side, strict=True)] for side in sides
    )
    lower, upper = (
        [vector_from_rank_zero(comm, piece) for piece in side] for side in (lower, upper)
    )
    for kind, low, high in zip(kinds, lower, upper, strict=True):
        _check(kind, low, high)
    return Bounds(np.concatenate(lower), np.concatenate(upper))


def _own_sides(kinds: Sequence[Kind], bounds: Any) -> list[list[np.ndarray]]:
    """What this rank has of all lower and of all upper bounds."""
    sides = zip(*_pairs(bounds, len(kinds)), strict=True)
    return [
        [_own(kind, bound, empty) for kind, bound in zip(kinds, side, strict=True)]
        for side, empty in zip(sides, (-np.inf, np.inf), strict=True)
    ]


def _pairs(bounds: Any, count: int) -> list[tuple[Any, Any]]:
    """One pair for each control."""
    bounds = [bounds] if count == 1 and _is_pair(bounds) else bounds
    if not isinstance(bounds, (list, tuple)) or len(bounds) != count:
        raise TypeError(
            f"fit: bounds for {count} controls: wanted a list of {count} pairs (lower, upper), "
            "one for each control in their order, with None where there is no bound."
        )
    pairs = [(None, None) if pair is None else pair for pair in bounds]
    wrong = [pair for pair in pairs if not _is_pair(pair)]
    if wrong:
        raise TypeError(
            f"fit: bounds has {wrong[0]!r} for a control, wanted a pair (lower, upper), with None "
            "where there is no bound."
        )
    return pairs


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _own(kind: Kind, bound: Any, empty: float) -> np.ndarray:
    """What this rank has of a bound."""
    own = kind.bound(empty if bound is None else bound)
    if np.isnan(own).any():
        raise ValueError(f"fit: a bound of {kind.name} is NaN.")
    return own


def _check(kind: Kind, lower: np.ndarray, upper: np.ndarray) -> None:
    crossed = lower > upper
    if crossed.any():
        i = int(crossed.argmax())
        raise ValueError(
            f"fit: bounds of {kind.name}: {int(crossed.sum())} of its {len(kind)} values have a "
            f"lower bound above the upper one, such as {lower[i]:g} above {upper[i]:g}."
        )
    couples = kind.metric is not None and not kind.metric.is_diagonal
    if couples and (np.isfinite(lower).any() or np.isfinite(upper).any()):
        raise ValueError(
            f"fit: {kind.name} has bounds, and a riesz_map that couples its values, so that bounds "
            "of values are none of the optimiser's coordinates: take riesz_map='L2', or TAO by "
            "pyadjoint's TAOSolver, which works in the values and measures gradients by the map."
        )
