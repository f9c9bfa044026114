"""The optimisers by the names that users give."""

from __future__ import annotations

from femnn.training.adam import ADAM
from femnn.training.lbfgs import LBFGS
from femnn.training.run import Optimiser

OPTIMISERS: dict[str, Optimiser] = {"L-BFGS": LBFGS, "Adam": ADAM}


def optimiser_of(method: str) -> Optimiser:
    """The optimiser of this name; a ``ValueError`` that lists all where there is none."""
    if method not in OPTIMISERS:
        raise ValueError(f"fit: method={method!r} is unknown, use one of {sorted(OPTIMISERS)}.")
    return OPTIMISERS[method]
