"""Modules of one input at many points: evaluated at few nodes.  Needs torch and numpy only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import nn

from femnn.evaluation.curve import FIRST, PER_PIECE, Curve, Known, curve_through
from femnn.evaluation.derivatives import Variation
from femnn.evaluation.evaluator import PointEvaluator

# How many points there must be for each node, by what must be resolved: what shows that it is
# resolved takes sweeps of the nodes (see benchmarks/).
SHARE = {"values": 12, "slopes": 8, "weights": 10}
FEWEST = PER_PIECE * 2**FIRST
# What has to be known of a function where something is to be resolved.
PARTS = {"values": ["values"], "slopes": ["slopes"], "weights": ["slopes", "changes"]}
# So many pieces are remembered.
MOST_KEPT = 4096
# Values of smaller networks cost no more than their interpolation.
FROM_WEIGHTS = 100

Shown = Callable[[np.ndarray, float], np.ndarray]


def evaluator_for(
    net: nn.Module,
    n_inputs: int,
    chunk_size: int | None = None,
    device: str | torch.device | None = None,
) -> PointEvaluator:
    """What evaluates a module at many points, in the way that pays.

    Parameters
    ----------
    net, n_inputs, chunk_size, device
        As for :class:`PointEvaluator`.

    Raises
    ------
    TypeError, ValueError
        As for :class:`PointEvaluator`.
    """
    if n_inputs == 1:
        return CurveEvaluator(net, chunk_size, device)
    return PointEvaluator(net, n_inputs, chunk_size, device)


class CurveEvaluator(PointEvaluator):
    """A module of one input, by its values at nodes where it is smooth; equal to rounding.

    Nodes are chosen at each sweep from the points and the module's values alone, and each rank
    decides for itself.  What is known at nodes is kept for sweeps with the same weights, as those
    of Newton's method, while the module is the same.  See ``curve_through`` for where points are
    evaluated directly.

    Parameters
    ----------
    net, chunk_size, device
        As for :class:`PointEvaluator`.

    Attributes
    ----------
    points_asked, points_passed : int
        How many values at points were asked for so far, and at how many points and nodes the
        module was evaluated for them.

    Raises
    ------
    TypeError, ValueError
        As for :class:`PointEvaluator`.
    """

    def __init__(
        self,
        net: nn.Module,
        chunk_size: int | None = None,
        device: str | torch.device | None = None,
    ):
        super().__init__(net, 1, chunk_size, device)
        self._n_numbers = sum(p.numel() for p in net.parameters())
        self.points_asked = self.points_passed = 0
        self._kept: dict[str, Known] = {}
        self._kept_for: np.ndarray | None = None
        self._kept_version = 0

    def value(self, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`PointEvaluator.value`."""
        self._settle(x, weights)
        curve = self.curve(x, weights, "values")
        if curve is None:
            return super().value(x, weights)
        self._probe.check_mode()
        self.sweeps["value"] += 1
        values = curve.known[..., 0]
        if curve.n_direct:
            direct = self._values(curve.nodes[: curve.n_direct, None], weights)
            values = np.concatenate([direct, values])
        self._probe.note(curve.nodes[:, None], weights, values)
        return curve.spread(values)

    def value_and_derivative(
        self, x: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PointEvaluator.value_and_derivative`."""
        self._settle(x, weights)
        curve = self.curve(x, weights, "slopes")
        if curve is None:
            return super().value_and_derivative(x, weights)
        self._probe.check_mode()
        self.sweeps["derivative"] += 1
        values, slopes = self._at_nodes(curve, weights)
        self._probe.note(curve.nodes[:, None], weights, values)
        values, slopes = curve.spread_each(values, slopes)
        return values, slopes[..., None]

    def vjp(
        self,
        x: np.ndarray,
        cotangent: np.ndarray,
        weights: np.ndarray | None = None,
        of_inputs: bool = True,
        of_weights: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PointEvaluator.vjp`."""
        curve = self.curve(x, weights, "weights")
        if curve is None:
            return super().vjp(x, cotangent, weights, of_inputs, of_weights)
        nodes, inputs = curve.nodes[:, None], np.zeros((len(x), 1))
        _, product = super().vjp(nodes, curve.gather(cotangent), weights, False, of_weights)
        if of_inputs:
            slopes = self._at_nodes(curve, weights)[1]
            inputs[:, 0] = (cotangent * curve.spread(slopes)).sum(axis=1)
        return inputs, product

    def variation(
        self,
        x: np.ndarray,
        x_dot: np.ndarray | None,
        weights_dot: np.ndarray | None,
        weights: np.ndarray | None = None,
        of_slope: bool = True,
        cotangent: np.ndarray | None = None,
    ) -> Variation:
        """See :meth:`PointEvaluator.variation`."""
        curve = self.curve(x, weights, "weights")
        if curve is None:
            return super().variation(x, x_dot, weights_dot, weights, of_slope, cotangent)
        nodes, slopes_wanted = curve.nodes[:, None], of_slope or cotangent is not None
        seed = None if cotangent is None else curve.gather(cotangent)
        change = super().variation(nodes, None, weights_dot, weights, slopes_wanted, seed)
        of_slopes = [] if change.slope is None else [change.slope[..., 0]]
        values, *slopes = curve.spread_each(change.values, *of_slopes)
        product, slope = change.weights, slopes[0] if slopes else None
        if x_dot is not None:
            seed = None if cotangent is None else curve.gather(cotangent * x_dot)
            ones = np.ones_like(nodes)
            along = self._variation(nodes, ones, None, weights, slopes_wanted, seed)
            values += curve.spread(along.values) * x_dot
            product = product + along.weights
            if slope is not None and along.slope is not None:
                slope += curve.spread(along.slope[..., 0]) * x_dot
        inputs = np.zeros((len(x), 1))
        if cotangent is not None and slope is not None:
            inputs[:, 0] = (cotangent * slope).sum(axis=1)
        wanted = slope[..., None] if of_slope and slope is not None else None
        return Variation(values, wanted, inputs, product)

    def curve(self, x: np.ndarray, weights: np.ndarray | None, of: str) -> Curve | None:
        """The nodes for these points, if there are far fewer of them.

        Parameters
        ----------
        x, weights
            As for :meth:`PointEvaluator.value`.
        of
            What must be resolved: ``"values"``, also their ``"slopes"``, or also the derivatives of
            both for the ``"weights"``.
        """
        self.points_asked += len(x)
        curve, most = None, len(x) // SHARE[of]
        if most >= FEWEST and self._pays(of):
            known = self._known_at(weights)
            curve = curve_through(x[:, 0], [known[part] for part in PARTS[of]], most)
        if curve is None:
            self.points_passed += len(x)
        else:  # at pieces' nodes values are known by now
            self.points_passed += len(curve.nodes) if of == "weights" else curve.n_direct
        return curve

    def _again(self) -> PointEvaluator:
        return CurveEvaluator(self.net, self.chunk_size)

    def _pays(self, of: str) -> bool:
        """Rounding of other dtypes would be told from what is not resolved by other numbers."""
        is_double = self.parameters.dtype == torch.float64
        return is_double and (of != "values" or self._n_numbers >= FROM_WEIGHTS)

    def _known_at(self, weights: np.ndarray | None) -> dict[str, Known]:
        """What is known at these weights: kept where they cannot be written to.

        Whoever else asks whether the module is still the same may not have asked since.
        """
        if weights is None or weights.flags.writeable:
            return self._nothing_known(weights)
        is_same = self._kept_for is weights and self._kept_version == self.version()
        if not is_same or sum(len(known) for known in self._kept.values()) > MOST_KEPT:
            self._kept, self._kept_for = self._nothing_known(weights), weights
            self._kept_version = self.version()
        return self._kept

    def _nothing_known(self, weights: np.ndarray | None) -> dict[str, Known]:
        """All that may have to be resolved; slopes as changes across the range of the points."""

        def values(nodes: np.ndarray, span: float) -> np.ndarray:
            return self._values(nodes[:, None], weights)[..., None]

        def slopes(nodes: np.ndarray, span: float) -> np.ndarray:
            value, slope = self._derivatives(nodes[:, None], weights)
            return np.concatenate([value[..., None], span * slope], axis=-1)

        def changes(nodes: np.ndarray, span: float) -> np.ndarray:
            x = nodes[:, None]
            change = self._variation(x, None, self._direction, weights, True, None)
            assert change.slope is not None
            return np.concatenate([change.values[..., None], span * change.slope], axis=-1)

        every = {"values": values, "slopes": slopes, "changes": changes}
        return {name: Known(self._counted(function)) for name, function in every.items()}

    def _counted(self, function: Shown) -> Shown:
        def counted(nodes: np.ndarray, span: float) -> np.ndarray:
            self.points_passed += len(nodes)
            return function(nodes, span)

        return counted

    def _at_nodes(self, curve: Curve, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Values and slopes at a curve's nodes, each of shape ``(n_nodes, n_outputs)``.

        Those at the nodes of pieces were found when these were shown to be resolved.
        """
        n = self.n_outputs
        values, slopes = curve.known[:, :n, 0], curve.known[:, :n, 1] / curve.span
        if curve.n_direct:
            direct, of_direct = self._derivatives(curve.nodes[: curve.n_direct, None], weights)
            values = np.concatenate([direct, values])
            slopes = np.concatenate([of_direct[..., 0], slopes])
        return values, slopes

    @cached_property
    def _direction(self) -> np.ndarray:
        """A direction in which all weights move, each in its own way."""
        return np.random.default_rng(0).standard_normal(len(self.parameters))
