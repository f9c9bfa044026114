"""The derivative of a network's values for each of its weights, point by point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from femnn.evaluation.batches import Sweep
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.interpolant import Interpolant
from femnn.evaluation.interpolated import InterpolatedEvaluator
from femnn.evaluation.probe import to_numpy
from femnn.evaluation.threads import torch_threads

# Numbers in a batch of derivatives.
BATCH = 2**22


def weight_jacobian(
    evaluator: PointEvaluator, x: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Derivatives of a network's values with respect to all its weights.

    Parameters
    ----------
    evaluator
        The network.
    x
        Points, shape ``(n_points, n_inputs)``; rank-local.
    weights
        Weights to use, shape ``(n_weights,)``; ``None`` for the module's own.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_points, n_outputs, n_weights)``, float64; rank-local.
    """
    if not len(evaluator.parameters):
        return np.empty((len(x), evaluator.n_outputs, 0))
    if isinstance(evaluator, InterpolatedEvaluator):
        at = evaluator.interpolant(x, weights, "changes")
        if at is not None:
            return _spread(at, _at_points(evaluator, at.nodes, weights))
    return _at_points(evaluator, x, weights)


def _at_points(evaluator: PointEvaluator, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    try:
        return _in_batches(evaluator, x, weights)
    except RuntimeError:  # torch.func does not take all modules that differentiate themselves
        return _by_directions(evaluator, x, weights)


def _spread(at: Interpolant, jacobian: np.ndarray) -> np.ndarray:
    flat = at.spread(jacobian.reshape(len(jacobian), -1))
    return flat.reshape(-1, *jacobian.shape[1:])


def _in_batches(evaluator: PointEvaluator, x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    parameters = evaluator.parameters
    result = np.empty((len(x), evaluator.n_outputs, len(parameters)))
    size = max(1, BATCH // max(1, evaluator.n_outputs * len(parameters)))
    with torch_threads(evaluator.threads), parameters.loaded(weights, trainable=False):
        derivative = _derivative(evaluator.net, [id(p) for p in parameters.tensors])
        for rows, points in Sweep(parameters, size).batches(x):
            pieces = derivative(points)
            flat = [p.reshape(len(p), evaluator.n_outputs, -1) for p in pieces]
            result[rows] = to_numpy(torch.cat(flat, dim=-1))
    return result


def _by_directions(
    evaluator: PointEvaluator, x: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """The same by a sweep for each weight."""
    n = len(evaluator.parameters)
    result = np.empty((len(x), evaluator.n_outputs, n))
    for i, row in enumerate(np.eye(n)):
        result[..., i] = evaluator.variation(x, None, row, weights, of_slope=False).values
    return result


def _derivative(net: nn.Module, wanted: list[int]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What takes points to the derivatives for each parameter, in the order that is wanted."""
    named = {id(p): (name, p.detach()) for name, p in net.named_parameters()}
    names = [named[i][0] for i in wanted]
    values = [named[i][1] for i in wanted]

    def value(tensors: list[Tensor], point: Tensor) -> Tensor:
        given = dict(zip(names, tensors, strict=True))
        return functional_call(net, given, (point[None],), tie_weights=True)[0]

    at_each = vmap(jacrev(value), in_dims=(None, 0))
    return lambda points: at_each(values, points)
