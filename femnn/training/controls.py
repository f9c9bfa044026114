"""The controls of a reduced functional as one vector of numbers."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import firedrake as fd
import numpy as np
from mpi4py import MPI
from pyadjoint import Block
from pyadjoint.enlisting import Enlist
from torch import nn

from femnn.parallel import from_rank_zero, same_on_ranks
from femnn.tape.model import (
    OnRanks,
    blocks_behind,
    check_constants,
    largest_comm,
    values_behind,
)
from femnn.tape.weights import Weights
from femnn.training.bounds import Bounds, bounds_of
from femnn.training.kinds import Kind, kind_of
from femnn.training.metrics import Joined, Metric


class ControlVector:
    """The controls of a reduced functional, joined into one vector, the same on every rank.

    Optimisers work on such vectors; only :mod:`femnn.training.kinds` knows what kinds of controls
    there are.  Collective.

    Parameters
    ----------
    Jhat
        The reduced functional.
    bounds
        Of the controls, as :func:`femnn.fit` takes them.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        The ranks on which the vector is the same.
    metric : Joined
        The controls' inner product.
    length : float
        The length of a draw of the fields that are measured by their priors, zero without any.
    bounds : Bounds or None
        Their bounds.
    are_weights : bool
        Whether all of them are weights of networks.

    Raises
    ------
    TypeError
        If a control is of no known kind, or its inner product is not known.
    ValueError
        If a control is given twice, two share a part of their parameters, there is nothing to
        train, the tape does not follow a Constant, or for bounds that mean nothing.
    """

    def __init__(self, Jhat: Any, bounds: Any = None):
        controls = list(Enlist(Jhat.controls))
        objects = [c.control for c in controls]
        model = (getattr(Jhat, "functional", None), getattr(Jhat, "tape", None))
        behind = list(values_behind(*model))
        # Weights of a network that makes numbers only do not know the ranks of the model.
        self.comm: MPI.Comm = largest_comm([*objects, *behind]) or MPI.COMM_SELF
        self._weights = [c for c in objects if isinstance(c, Weights)]
        self.are_weights = len(self._weights) == len(objects)
        self._check_parameters()
        self._kinds: list[Kind] = [kind_of(c) for c in controls]
        self._check_once()
        constants = [c for c in objects if isinstance(c, fd.Constant)]
        blocks = list(blocks_behind(*model))
        check_constants("fit", constants, blocks)
        for block in blocks:
            if isinstance(block, OnRanks):
                block.check_controls("fit", objects)
        self._ends = np.cumsum([len(kind) for kind in self._kinds])
        metrics = [kind.metric for kind in self._kinds]
        # Bounds want inner products that are diagonal.
        priors = [_of_prior(c, blocks) if bounds is None else None for c in controls]
        self._priors = [p for p in priors if p is not None]
        self.metric = Joined([p or m for p, m in zip(priors, metrics, strict=True)], self._ends)
        drawn = [len(kind) for kind, p in zip(self._kinds, priors, strict=True) if p is not None]
        self.length = float(np.sqrt(sum(drawn)))
        self.bounds: Bounds | None = None
        if bounds is not None:
            self.bounds = bounds_of(self._kinds, bounds, self.comm)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def description(self) -> list[list[Any]]:
        """Kind, name and length of each control."""
        return [[type(k.object).__name__, k.name, len(k)] for k in self._kinds]

    @cached_property
    def order(self) -> np.ndarray:
        """The places of the vector in an order that does not depend on the ranks.  Collective.

        Raises
        ------
        ValueError
            If a field's degrees of freedom are not values at points.
        """
        starts = self._ends - [len(k) for k in self._kinds]
        orders = [k.order() + start for k, start in zip(self._kinds, starts, strict=True)]
        return np.concatenate(orders)

    @property
    def places(self) -> list[slice]:
        """The place of each control in the vector."""
        ends = [0, *self._ends.tolist()]
        return [slice(a, b) for a, b in pairwise(ends)]

    def is_measured_by(self, block: Block) -> bool:
        """Whether a block is the energy of the prior that measures its control."""
        own = getattr(block, "prior_metric", {}).values()
        return any(metric is prior for metric in own for prior in self._priors)

    @property
    def what(self) -> str:
        """What they are, for messages."""
        return "weights" if self.are_weights else "controls"

    def read(self) -> np.ndarray:
        """The values at first, shape ``(len(self),)``.  Collective.

        Those of the user's objects; of one that has become another node of the tape since, as a
        state in a time loop does, those of the control's own node.

        Raises
        ------
        RuntimeError
            If they differ between ranks.
        ValueError
            If one is not finite, or outside the bounds.
        """
        pieces = [kind.read(self.comm) for kind in self._kinds]
        for kind, piece in zip(self._kinds, pieces, strict=True):
            if not same_on_ranks(self.comm, piece.tobytes()):
                raise RuntimeError(
                    f"fit: the values of the control {kind.name} differ between ranks: all must "
                    "start from the same. Assign the same on every rank."
                )
            if not np.isfinite(piece).all():
                raise ValueError(
                    f"fit: {int((~np.isfinite(piece)).sum())} of the {len(piece)} values of the "
                    f"control {kind.name} are NaN or infinite: assign finite ones before."
                )
        self._check_inside(pieces)
        return np.concatenate(pieces)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The networks' trainable parameters."""
        return [p for weights in self._weights for p in weights.parameters]

    def present(self) -> np.ndarray:
        """The networks' weights as they are, shape ``(n_weights,)``."""
        return np.concatenate([w.vector for w in self._weights])

    def set_gradient(self, gradient: np.ndarray) -> None:
        """Give a gradient, shape ``(n_weights,)``, to the networks' parameters as torch's."""
        ends = np.cumsum([len(w) for w in self._weights])[:-1]
        for weights, piece in zip(self._weights, np.split(gradient, ends), strict=True):
            for parameter, part in zip(weights.parameters, weights.split(piece), strict=True):
                parameter.grad = part

    def write(self, vector: np.ndarray) -> None:
        """Give the user's networks, Functions and Constants these values.  Collective."""
        for kind, piece in zip(self._kinds, self._split(vector), strict=True):
            kind.write(piece)

    def weights_of(self, vector: np.ndarray) -> np.ndarray:
        """A copy of the part that the networks have, shape ``(n_weights,)``."""
        pieces = zip(self._kinds, self._split(vector), strict=True)
        own = [piece for kind, piece in pieces if isinstance(kind.object, Weights)]
        return np.concatenate(own) if own else np.empty(0)

    def objects(self, vector: np.ndarray) -> list[Any]:
        """New objects of the controls' kinds with these values.  Collective."""
        pieces = zip(self._kinds, self._split(vector), strict=True)
        return [kind.value(piece) for kind, piece in pieces]

    def values(self, vector: np.ndarray) -> Any:
        """What the reduced functional is called with, to be evaluated at ``vector``."""
        values = self.objects(vector)
        return values if len(values) > 1 else values[0]

    def flat(self, derivatives: Any) -> np.ndarray:
        """What the reduced functional's ``derivative()`` returns, as a vector.  Collective."""
        pairs = zip(self._kinds, Enlist(derivatives), strict=True)
        return np.concatenate([kind.flat(derivative) for kind, derivative in pairs])

    def rows(self, matrix: np.ndarray) -> list[np.ndarray]:
        """The rows of a matrix by controls, of fields those that this rank has."""
        pieces = zip(self._kinds, self._split(matrix), strict=True)
        return [kind.rows(piece) for kind, piece in pieces]

    def size_of_gradient(self, vector: np.ndarray, gradient: np.ndarray) -> tuple[float, float]:
        """Norm and largest entry of the gradient's Riesz representer.  Collective.

        Where bounds hold entries back, without them.
        """
        free = gradient if self.bounds is None else self.bounds.free(vector, gradient)
        if self.metric.is_euclids:
            return float(np.linalg.norm(free)), float(np.abs(free).max(initial=0.0))
        representer = self.metric.representer(free)
        with np.errstate(over="ignore"):  # as far as a line search may go
            norm = np.sqrt(max(0.0, free @ representer))
        sizes = (float(norm), float(np.abs(representer).max(initial=0.0)))
        return from_rank_zero(self.comm, sizes)  # rounding may differ, and what it decides must not

    def _split(self, vector: np.ndarray) -> list[np.ndarray]:
        return np.split(vector, self._ends[:-1])

    def _check_parameters(self) -> None:
        owned = [id(p) for p in self.parameters]
        if len(set(owned)) < len(owned):
            raise ValueError(
                "fit: two controls share some of their parameters, but not all: each would get a "
                "part of the gradient. Put the networks into one torch module."
            )
        if not owned and self.are_weights:
            names = ", ".join(w.name for w in self._weights)
            raise ValueError(
                f"fit: the controls ({names}) have no trainable parameters: wanted at least one. "
                "Take a network with parameters, and call requires_grad_(True) on those that "
                "are frozen before its coefficient is made."
            )

    def _check_once(self) -> None:
        known: set[int] = set()
        for kind in self._kinds:
            if id(kind.object) in known:
                raise ValueError(
                    f"fit: {kind.name} is a control twice: it can end with one value only. Name it "
                    "once, or give the model a second object."
                )
            known.add(id(kind.object))

    def _check_inside(self, pieces: list[np.ndarray]) -> None:
        if self.bounds is None:
            return
        lower, upper = self._split(self.bounds.lower), self._split(self.bounds.upper)
        for kind, x, low, high in zip(self._kinds, pieces, lower, upper, strict=True):
            outside = (x < low) | (x > high)
            if outside.any():
                i = int(outside.argmax())
                raise ValueError(
                    f"fit: {int(outside.sum())} of the {len(x)} values of {kind.name} are outside "
                    f"their bounds at first, such as {x[i]:g} outside [{low[i]:g}, {high[i]:g}]: "
                    "assign values inside them, or widen the bounds."
                )


def _of_prior(control: Any, blocks: list[Any]) -> Metric | None:
    """The inner product that a field's prior in the functional is, where no other is asked for."""
    if control.riesz_map is not None:
        return None
    found = [getattr(block, "prior_metric", {}).get(id(control.control)) for block in blocks]
    return next((metric for metric in found if metric is not None), None)
