"""The controls of a reduced functional as one vector of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from pyadjoint.enlisting import Enlist
from torch import nn

from femnn.tape.model import largest_comm, values_behind
from femnn.tape.weights import Weights


class ControlVector:
    """The controls of a reduced functional, joined into one vector, the same on every rank.

    Optimisers work on such vectors; this class alone knows what kinds of controls there are.

    Parameters
    ----------
    Jhat
        The reduced functional.

    Attributes
    ----------
    controls : list of Weights
        The controls, in the functional's order.
    comm : mpi4py.MPI.Comm
        The ranks on which the vector is the same.

    Raises
    ------
    TypeError
        If a control is not a ``Weights``.
    ValueError
        If two controls share a part of their parameters, or there is nothing to train.
    """

    def __init__(self, Jhat: Any):
        self.controls = [c.control for c in Enlist(Jhat.controls)]
        for control in self.controls:
            if not isinstance(control, Weights):
                raise TypeError(
                    f"fit: a control is a {type(control).__name__}, wanted Weights (for example "
                    "Control(kappa.weights)). For fields use pyadjoint's minimize."
                )
        self._check_parameters()
        self._ends = np.cumsum([len(c) for c in self.controls])
        behind = list(values_behind(getattr(Jhat, "functional", None), getattr(Jhat, "tape", None)))
        # Weights of a network that makes numbers only do not know the ranks of the model.
        self.comm: MPI.Comm = largest_comm([*self.controls, *behind]) or MPI.COMM_SELF

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self) -> np.ndarray:
        """The present values, shape ``(len(self),)``.  Collective.

        Raises
        ------
        RuntimeError
            If they differ between ranks.
        ValueError
            If one is not finite.
        """
        for control in self.controls:
            control.check_ranks(self.comm)
            control.check(control.vector)
        return self.present()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The networks' trainable parameters."""
        return [p for control in self.controls for p in control.parameters]

    def present(self) -> np.ndarray:
        """The present values, unchecked, shape ``(len(self),)``."""
        return np.concatenate([c.vector for c in self.controls])

    def set_gradient(self, gradient: np.ndarray) -> None:
        """Give a gradient, shape ``(len(self),)``, to the networks' parameters as torch's."""
        for control, piece in zip(self.controls, self._split(gradient), strict=True):
            for parameter, part in zip(control.parameters, control.split(piece), strict=True):
                parameter.grad = part

    def write(self, vector: np.ndarray) -> None:
        """Give the controls these values."""
        for control, piece in zip(self.controls, self._split(vector), strict=True):
            control.assign(piece)

    def values(self, vector: np.ndarray) -> Any:
        """What the reduced functional is called with, to be evaluated at ``vector``."""
        pairs = zip(self.controls, self._split(vector), strict=True)
        values = [control.like(piece) for control, piece in pairs]
        return values if len(values) > 1 else values[0]

    def flat(self, derivatives: Any) -> np.ndarray:
        """What the reduced functional's ``derivative()`` returns, as a vector."""
        return np.concatenate([d.vector for d in Enlist(derivatives)])

    def _split(self, vector: np.ndarray) -> list[np.ndarray]:
        return np.split(vector, self._ends[:-1])

    def _check_parameters(self) -> None:
        owned = [id(p) for p in self.parameters]
        if len(set(owned)) < len(owned):
            raise ValueError(
                "fit: two controls share some of their parameters, but not all: each would get a "
                "part of the gradient. Put the networks into one torch module."
            )
        if not owned:
            names = ", ".join(c.name for c in self.controls)
            raise ValueError(
                f"fit: the controls ({names}) have no trainable parameters: wanted at least one. "
                "Take a network with parameters, and call requires_grad_(True) on those that "
                "are frozen before its coefficient is made."
            )
