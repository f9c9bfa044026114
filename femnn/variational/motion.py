"""A state that moves in a direction: its fields, and through them its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ufl

from femnn.fields.derivatives import Direction, along, set_directions
from femnn.fields.kept import KeptForms
from femnn.points.network import NetworkDirection
from femnn.variational.network import PrivateNetwork
from femnn.variational.state import State


class Motion:
    """Changes of a state's fields, weights and networks, and of forms along them.

    Parameters
    ----------
    state
        The state.
    kept
        Where assemblers are kept.
    """

    def __init__(self, state: State, kept: KeptForms):
        self.state = state
        self._kept = kept
        self._fields = {source: Direction.like(copy) for source, copy in state.copies.items()}
        self._networks = {n: _direction(n) for n in state.networks}
        self._moving: list[Direction] = []

    def set(
        self, dots: Mapping[Any, Any], cotangents: Sequence[np.ndarray | None] | None = None
    ) -> list[np.ndarray | float]:
        """Take a direction, and find what it does to the networks.  Collective.

        Parameters
        ----------
        dots
            Dependency to its change; ``None`` where it stays.
        cotangents
            For second derivatives: a cotangent of each network's values, or ``None``.  The
            changes of the networks' derivatives are then found too.

        Returns
        -------
        list
            The rank's part of the change of each network's product of the cotangent with the
            weights' Jacobian.
        """
        fields = set_directions(self._fields, dots)
        self._moving = list(fields)
        given = [None] * len(self._networks) if cotangents is None else cotangents
        changes: list[np.ndarray | float] = []
        for (network, at), cotangent in zip(self._networks.items(), given, strict=True):
            weights_dot = dots.get(network.weights)
            at.set(fields, None if weights_dot is None else weights_dot.vector)
            change: np.ndarray | float = 0.0
            if at.moves:
                weights = self.state.weights_of(network)
                change = at.fill(weights, of_slope=cotangents is not None, cotangent=cotangent)
                self._moving += at.directions
            changes.append(change)
        return changes

    def change_of(self, key: Any, make_form: Callable[[], ufl.Form]) -> Callable | None:
        """The assembler of the change of a form along the direction; ``None`` where it is zero."""
        moving = list(self._moving)
        kept_as = ("change", key, tuple(id(d) for d in moving))
        return self._kept(kept_as, lambda: along(make_form(), moving))


def _direction(network: PrivateNetwork) -> NetworkDirection:
    return NetworkDirection(network.points, network.terms.value, network.terms.slope)
