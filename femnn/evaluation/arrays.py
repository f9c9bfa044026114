"""A network's values at numpy arrays.  Needs torch and numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from femnn.evaluation.evaluator import PointEvaluator


def evaluate(net: nn.Module, *inputs: ArrayLike) -> np.ndarray:
    """A network's values at arrays that broadcast against each other.

    Parameters
    ----------
    net
        A module that maps ``(points, inputs)`` to ``(points, outputs)``, each point on its own,
        on any device and in any floating dtype.
    *inputs
        One array (or number) for each of the network's inputs, in its units, of shapes that
        broadcast; rank-local, as the rank that calls has them.

    Returns
    -------
    numpy.ndarray
        float64, in the units of the network's outputs.  The shape to which the inputs broadcast;
        with more than one output, a last axis holds them.

    Raises
    ------
    TypeError
        If ``net`` is not a torch module, or an input does not hold real numbers.
    ValueError
        If the inputs do not broadcast, or are not as many as the network takes.

    Examples
    --------
    >>> net = MLP(2, 8, 1)
    >>> evaluate(net, np.linspace(0, 1, 5)[:, None], np.linspace(0, 2, 7)).shape
    (5, 7)
    """
    evaluator, points, shape = at_points("evaluate", net, inputs)
    return evaluator.value(points).reshape(shape)


def at_points(
    who: str, net: nn.Module, inputs: Sequence[ArrayLike]
) -> tuple[PointEvaluator, np.ndarray, tuple[int, ...]]:
    """What evaluates a network at arrays, the points in rows, and the values' shape.

    Parameters
    ----------
    who
        Who asks, for messages.
    net, inputs
        As for :func:`evaluate`.
    """
    if not inputs:
        raise ValueError(f"{who} got a network but no inputs: give one array for each input.")
    arrays = _broadcast(who, [_numbers(who, k, given) for k, given in enumerate(inputs)])
    shape = arrays[0].shape
    try:
        evaluator = PointEvaluator(net, len(arrays))
    except ValueError as error:
        raise ValueError(
            f"{who} got {len(arrays)} arrays, one for each input of the network: {error}"
        ) from error
    points = np.stack([a.ravel() for a in arrays], axis=-1)
    return evaluator, points, shape if evaluator.n_outputs == 1 else (*shape, evaluator.n_outputs)


def _numbers(who: str, k: int, given: ArrayLike) -> np.ndarray:
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{who}: input {k} is a {type(given).__name__} of dtype {array.dtype}, wanted real "
            "numbers. Give a Function's values as u.dat.data_ro."
        )
    return array.astype(float)


def _broadcast(who: str, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    try:
        return np.broadcast_arrays(*arrays)
    except ValueError as error:
        raise ValueError(
            f"{who}: inputs of shapes {', '.join(str(a.shape) for a in arrays)} do not "
            "broadcast: give arrays of one shape, or of shapes that numpy can add."
        ) from error
