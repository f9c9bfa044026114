"""What a posterior says in short: laws, traces, and what data do not tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from femnn.coefficient.coefficient import NeuralCoefficient
from femnn.evaluation.arrays import at_points
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.jacobian import weight_jacobian
from femnn.inference.field_prior import FieldPrior
from femnn.inference.gaussian import Directions, Gaussian
from femnn.inference.terms import Terms
from femnn.parallel import from_rank_zero
from femnn.tape.shared import places_of
from femnn.tape.weights import Weights


class Traces(NamedTuple):
    """Integrals of a field's variance over the domain.

    Attributes
    ----------
    prior, posterior : float
        Before the data, and with them.
    """

    prior: float
    posterior: float


@dataclass(frozen=True)
class TradeOff:
    """A joint change of several laws.

    Attributes
    ----------
    std, prior_std : float
        How far it goes, with the data and by the prior alone, in units of the prior's standard
        deviations of the laws.
    changes : tuple of numpy.ndarray
        The change of each law for one posterior standard deviation, of the shape of its values.
    """

    std: float
    prior_std: float
    changes: tuple[np.ndarray, ...]

    @property
    def ratio(self) -> float:
        """The part of the prior's standard deviation that is left: near one, data say nothing."""
        return self.std / self.prior_std


def law_of(
    terms: Terms,
    mean: np.ndarray,
    who: str,
    net: nn.Module | NeuralCoefficient,
    inputs: Sequence[ArrayLike],
) -> tuple[np.ndarray, np.ndarray]:
    """A law's values at the mean, and their derivatives for all entries.

    Parameters
    ----------
    terms
        What the functional is the sum of.
    mean
        The entries, shape ``(n,)``.
    who
        Who asks, for messages.
    net, inputs
        As for :meth:`femnn.LaplacePosterior.law`.

    Returns
    -------
    values : numpy.ndarray
        Of the shape to which the inputs broadcast.
    gradients : numpy.ndarray
        Shape ``(n, n_values)``.

    Raises
    ------
    ValueError
        If none of the network's weights are controls, or the inputs do not fit.
    """
    evaluator, points, shape, places = _in_controls(terms, who, net, inputs)
    known = places >= 0
    weights = _weights(evaluator, places, mean)
    values = evaluator.value(points, weights).reshape(shape)
    jacobian = weight_jacobian(evaluator, points, weights)[..., known]
    gradients = np.zeros((len(mean), values.size))
    np.add.at(gradients, places[known], jacobian.reshape(values.size, -1).T)
    return values, gradients


def laws_of(
    terms: Terms,
    draws: np.ndarray,
    who: str,
    net: nn.Module | NeuralCoefficient,
    inputs: Sequence[ArrayLike],
) -> np.ndarray:
    """A law's values at draws of the entries.

    Parameters
    ----------
    terms, who, net, inputs
        As for :func:`law_of`.
    draws
        Shape ``(n_draws, n)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_draws, *shape)``, with the shape to which the inputs broadcast.

    Raises
    ------
    ValueError
        As for :func:`law_of`.
    """
    evaluator, points, shape, places = _in_controls(terms, who, net, inputs)
    laws = [evaluator.value(points, _weights(evaluator, places, x)) for x in draws]
    return np.reshape(laws, (len(draws), *shape))


def _in_controls(
    terms: Terms, who: str, net: nn.Module | NeuralCoefficient, inputs: Sequence[ArrayLike]
) -> tuple[PointEvaluator, np.ndarray, tuple[int, ...], np.ndarray]:
    """A network at points, and where among the entries its weights are, -1 where they are none."""
    net = net.net if isinstance(net, NeuralCoefficient) else net
    evaluator, points, shape = at_points(who, net, inputs)
    starts = _parameter_places(terms)
    pieces = [
        starts[id(p)] + np.arange(p.numel()) if id(p) in starts else np.full(p.numel(), -1)
        for p in evaluator.parameters.tensors
    ]
    places = np.concatenate([np.empty(0, dtype=int), *pieces])
    if not (places >= 0).any():
        raise ValueError(
            f"{who}: none of the network's weights are controls of the functional: wanted a "
            "network, or a coefficient of one, whose weights it was made with."
        )
    return evaluator, points, shape, places


def _parameter_places(terms: Terms) -> dict[int, int]:
    """Where the entries of each parameter of a network begin, by the parameter's identity."""
    return {
        parameter: place.start + own.start
        for place, control in zip(terms.places, terms.objects, strict=True)
        if isinstance(control, Weights)
        for parameter, own in places_of(control).items()
    }


def _weights(evaluator: PointEvaluator, places: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """A network's weights, of which some are entries of the controls."""
    weights = evaluator.parameters.read()
    weights[places >= 0] = entries[places[places >= 0]]
    return weights


def trade_offs(
    gaussian: Directions, laws: Sequence[tuple[np.ndarray, np.ndarray]], n: int
) -> list[TradeOff]:
    """The joint changes of laws that are least sure; see :meth:`femnn.LaplacePosterior.trade_offs`.

    Parameters
    ----------
    gaussian
        The posterior.
    laws
        Of each law values and derivatives, as :func:`law_of` gives them.
    n
        How many.
    """
    scales = [float(np.sqrt((gaussian.prior_half(g) ** 2).sum(0).mean())) or 1.0 for _, g in laws]
    units = np.concatenate([np.full(v.size, s) for (v, _), s in zip(laws, scales, strict=True)])
    gradients = np.hstack([g for _, g in laws]) / units
    _, lengths, rows = np.linalg.svd(gaussian.half(gradients), full_matrices=False)
    ends = np.cumsum([v.size for v, _ in laws])[:-1]
    found = []
    for std, row in zip(lengths[:n], rows, strict=False):
        row = row * np.sign(row[np.abs(row).argmax()])
        prior = float(np.linalg.norm(gaussian.prior_half(gradients @ row)))
        pieces = np.split(std * row * units, ends)
        changes = tuple(p.reshape(v.shape) for p, (v, _) in zip(pieces, laws, strict=True))
        found.append(TradeOff(float(std), prior, changes))
    return found


def traces(gaussian: Directions, place: slice, prior: FieldPrior) -> Traces:
    """The integrals of a field's variance.  Collective.

    Parameters
    ----------
    gaussian
        The posterior.
    place
        The field's place among the entries.
    prior
        Its prior.
    """
    before = prior.trace()
    if isinstance(gaussian, Gaussian):
        after = prior.metric.integrals(gaussian.factor[place]).sum()
    else:
        fields = gaussian.metric.point(gaussian.vectors)[place]
        after = before - prior.metric.integrals(fields) @ gaussian.shares
    return Traces(before, from_rank_zero(prior.layout.comm, float(after)))
