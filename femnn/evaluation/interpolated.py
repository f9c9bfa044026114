"""Modules of one or two inputs at many points, by few nodes.  Needs torch and numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial

import numpy as np
import torch
from torch import nn

from femnn.evaluation.derivatives import Variation
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.interpolant import Interpolant, interpolant
from femnn.evaluation.pieces import FIRST, PER_SIDE, Known

# How many points there must be for each node, by what must be resolved: what shows that it is
# resolved takes sweeps of the nodes (see benchmarks/).
SHARE = {"values": 12, "slopes": 8, "products": 10, "changes": 10}
# By the number of inputs: networks with fewer numbers cost no more than their interpolation, with
# one input their values alone.
FROM_WEIGHTS = {1: 100, 2: 400}
# What has to be known of a function where something is to be resolved.
PARTS = {
    "values": ["values"],
    "slopes": ["slopes"],
    "products": ["slopes", "moved values"],
    "changes": ["slopes", "moved slopes"],
}
# So many numbers at nodes are remembered.
MOST_KEPT = 500_000


class NodesRefused(Exception):
    """A module has raised an error at nodes; it may take the points themselves."""


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
    if n_inputs in FROM_WEIGHTS:
        return InterpolatedEvaluator(net, n_inputs, chunk_size, device)
    return PointEvaluator(net, n_inputs, chunk_size, device)


class InterpolatedEvaluator(PointEvaluator):
    """A module of one or two inputs, by its values at nodes where it is smooth; equal to rounding.

    Nodes are chosen at each sweep from the points and the module's values alone, and each rank
    decides for itself.  What is known at nodes is kept for sweeps with the same weights, as those
    of Newton's method, and compared with the module's values there unless it is ``unchanged``.
    See ``pieces.resolved`` for where points are evaluated directly.

    Parameters
    ----------
    net, n_inputs, chunk_size, device
        As for :class:`PointEvaluator`; one or two inputs.

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
        n_inputs: int,
        chunk_size: int | None = None,
        device: str | torch.device | None = None,
    ):
        super().__init__(net, n_inputs, chunk_size, device)
        self._n_numbers = sum(p.numel() for p in net.parameters())
        self.points_asked = self.points_passed = 0
        self._kept: dict[str, Known] = {}
        self._kept_for: np.ndarray | None = None
        self._is_held = self._is_sure = False

    def value(self, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`PointEvaluator.value`."""
        self._settle(x, weights)
        at = self.interpolant(x, weights, "values")
        if at is None:
            return super().value(x, weights)
        self._probe.check_mode()
        self.sweeps["value"] += 1
        values = at.known[..., 0]
        if at.n_direct:
            values = np.concatenate([self._values(at.nodes[: at.n_direct], weights), values])
        self._probe.note(at.nodes, weights, values)
        return at.spread(values)

    def value_and_derivative(
        self, x: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PointEvaluator.value_and_derivative`."""
        self._settle(x, weights)
        at = self.interpolant(x, weights, "slopes")
        if at is None:
            return super().value_and_derivative(x, weights)
        self._probe.check_mode()
        self.sweeps["derivative"] += 1
        values, slopes = self._at_nodes(at, weights)
        self._probe.note(at.nodes, weights, values)
        values, slopes = at.spread_each(values, _flat(slopes))
        return values, slopes.reshape(len(x), self.n_outputs, self.n_inputs)

    def vjp(
        self,
        x: np.ndarray,
        cotangent: np.ndarray,
        weights: np.ndarray | None = None,
        of_inputs: bool = True,
        of_weights: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PointEvaluator.vjp`."""
        at = self.interpolant(x, weights, "products")
        if at is None:
            return super().vjp(x, cotangent, weights, of_inputs, of_weights)
        _, product = super().vjp(at.nodes, at.gather(cotangent), weights, False, of_weights)
        inputs = np.zeros(x.shape)
        if of_inputs:
            slopes = at.spread(_flat(self._at_nodes(at, weights)[1]))
            inputs = _contracted(cotangent, slopes.reshape(len(x), self.n_outputs, self.n_inputs))
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
        at = self.interpolant(x, weights, "changes")
        if at is None:
            return super().variation(x, x_dot, weights_dot, weights, of_slope, cotangent)
        slopes_wanted = of_slope or cotangent is not None
        seed = None if cotangent is None else at.gather(cotangent)
        change = super().variation(at.nodes, None, weights_dot, weights, slopes_wanted, seed)
        total = self._spread_change(at, change)
        for j, moved in enumerate(() if x_dot is None else x_dot.T[..., None]):
            seed = None if cotangent is None else at.gather(cotangent * moved)
            unit = np.zeros_like(at.nodes)
            unit[:, j] = 1.0
            along = self._variation(at.nodes, unit, None, weights, slopes_wanted, seed)
            total = _sum(total, self._spread_change(at, along), moved)
        inputs = np.zeros(x.shape)
        if cotangent is not None and total.slope is not None:
            inputs = _contracted(cotangent, total.slope)
        return Variation(total.values, total.slope if of_slope else None, inputs, total.weights)

    def _spread_change(self, at: Interpolant, change: Variation) -> Variation:
        """A change at the nodes, taken to the points."""
        if change.slope is None:
            return Variation(at.spread(change.values), None, change.inputs, change.weights)
        values, slopes = at.spread_each(change.values, _flat(change.slope))
        slopes = slopes.reshape(len(values), self.n_outputs, self.n_inputs)
        return Variation(values, slopes, change.inputs, change.weights)

    def interpolant(self, x: np.ndarray, weights: np.ndarray | None, of: str) -> Interpolant | None:
        """The nodes for these points, if there are far fewer of them.

        Parameters
        ----------
        x, weights
            As for :meth:`PointEvaluator.value`.
        of
            What must be resolved: ``"values"``, also their ``"slopes"``, for ``"products"`` also
            the values' derivatives for the weights, for ``"changes"`` those of the slopes, too.
        """
        self.points_asked += len(x)
        found, most = None, len(x) // SHARE[of]
        fewest = PER_SIDE**self.n_inputs * 2 ** (FIRST[self.n_inputs] * self.n_inputs)
        if most >= fewest and self._pays(of):
            found = self._found(x, weights, of, most)
        if found is None:
            self.points_passed += len(x)
        else:  # at pieces' nodes values are known by now
            self.points_passed += found.n_direct if of in ("values", "slopes") else len(found.nodes)
        return found

    def _pays(self, of: str) -> bool:
        """Rounding of other dtypes would be told from what is not resolved by other numbers."""
        is_large = self._n_numbers >= FROM_WEIGHTS[self.n_inputs]
        cheap = self.n_inputs == 1 and of != "values"
        return self.parameters.dtype == torch.float64 and (is_large or cheap)

    def _found(
        self, x: np.ndarray, weights: np.ndarray | None, of: str, most: int
    ) -> Interpolant | None:
        try:
            known = self._known_at(weights)
            return interpolant(x, [known[part] for part in PARTS[of]], most)
        except NodesRefused:
            self._kept_for = None
            return None

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """See :meth:`PointEvaluator.unchanged`."""
        before, self._is_held = self._is_held, True
        self._is_sure = before and self._is_sure
        try:
            yield
        finally:
            self._is_held = before
            self._is_sure = before and self._is_sure

    def _known_at(self, weights: np.ndarray | None) -> dict[str, Known]:
        """What is known at these weights: kept where they cannot be written to.

        A module that may have changed since is asked for its values at all nodes.
        """
        if weights is None or weights.flags.writeable:
            return self._nothing_known(weights)
        is_same = self._kept_for is weights and (self._is_sure or self._is_as_it_was(weights))
        if not is_same or sum(known.size for known in self._kept.values()) > MOST_KEPT:
            self._kept, self._kept_for = self._nothing_known(weights), weights
        self._is_sure = self._is_held
        return self._kept

    def _is_as_it_was(self, weights: np.ndarray) -> bool:
        """Whether the module's values at all nodes are those that are known."""
        asked = [pair for part in ("values", "slopes") for pair in self._kept[part].asked]
        if not asked:
            return True
        nodes = np.concatenate([nodes for nodes, _ in asked])
        known = np.concatenate([values[..., 0] for _, values in asked])
        present = self._ask(self._show, weights, nodes, np.ones(self.n_inputs))[..., 0]
        return np.allclose(present, known, 1e-12, 0.0, equal_nan=True)

    def _nothing_known(self, weights: np.ndarray | None) -> dict[str, Known]:
        """All that may have to be resolved; slopes as changes across the range of the points."""
        every: dict[str, Callable[..., np.ndarray]] = {
            "values": self._show,
            "slopes": self._show_slopes,
            "moved values": partial(self._show_moved, False),
            "moved slopes": partial(self._show_moved, True),
        }
        return {name: Known(partial(self._ask, f, weights)) for name, f in every.items()}

    def _ask(
        self,
        show: Callable[..., np.ndarray],
        weights: np.ndarray | None,
        x: np.ndarray,
        span: np.ndarray,
    ) -> np.ndarray:
        """What is shown at nodes; they may lie beyond the points, so modules need not take them."""
        self.points_passed += len(x)
        try:
            return show(weights, x, span)
        except Exception as error:
            raise NodesRefused from error

    def _show(self, weights: np.ndarray | None, x: np.ndarray, span: np.ndarray) -> np.ndarray:
        return self._values(x, weights)[..., None]

    def _show_slopes(
        self, weights: np.ndarray | None, x: np.ndarray, span: np.ndarray
    ) -> np.ndarray:
        value, slope = self._derivatives(x, weights)
        return np.concatenate([value[..., None], span * slope], axis=-1)

    def _show_moved(
        self, of_slope: bool, weights: np.ndarray | None, x: np.ndarray, span: np.ndarray
    ) -> np.ndarray:
        change = self._variation(x, None, self._direction, weights, of_slope, None)
        found = change.values[..., None]
        if change.slope is None:
            return found
        return np.concatenate([found, span * change.slope], axis=-1)

    def _at_nodes(
        self, at: Interpolant, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and slopes at the nodes, as :meth:`value_and_derivative`'s.

        Those at the nodes of pieces were found when these were shown to be resolved.
        """
        n = self.n_outputs
        values, slopes = at.known[:, :n, 0], at.known[:, :n, 1:] / at.span
        if at.n_direct:
            direct, of_direct = self._derivatives(at.nodes[: at.n_direct], weights)
            values = np.concatenate([direct, values])
            slopes = np.concatenate([of_direct, slopes])
        return values, slopes

    @cached_property
    def _direction(self) -> np.ndarray:
        """A direction in which all weights move, each in its own way."""
        return np.random.default_rng(0).standard_normal(len(self.parameters))


def _flat(slopes: np.ndarray) -> np.ndarray:
    return slopes.reshape(len(slopes), -1)


def _contracted(cotangent: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Products of cotangents with derivatives, shape ``(n_points, n_inputs)``."""
    return np.einsum("nm,nmk->nk", cotangent, slopes)


def _sum(total: Variation, along: Variation, factor: np.ndarray) -> Variation:
    """A change and, times a number at each point, another; its product has the numbers already."""
    slope = total.slope
    if slope is not None and along.slope is not None:
        slope = slope + along.slope * factor[..., None]
    values = total.values + along.values * factor
    return Variation(values, slope, total.inputs, total.weights + along.weights)
