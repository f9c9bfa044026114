"""A network written out as a UFL expression: an oracle for tests, and a way to hand over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ufl
from torch import Tensor, nn

from femnn.networks import MLP, InputScaling, Output


def to_ufl(net: nn.Module, *operands: Any, weights: Sequence[Any] | None = None) -> list[Any]:
    """Write a network out as UFL expressions.

    Compiling it takes long beyond small widths; the values agree to rounding.

    Parameters
    ----------
    net
        An :class:`~femnn.MLP`, or a :class:`torch.nn.Sequential` of linear layers and
        ``Tanh``, ``Sigmoid``, ``Softplus``, ``SiLU`` or ``ReLU``.
    *operands
        UFL scalars, one for each input.
    weights
        What stands for the trainable weights, in the order of ``net.parameters()``: UFL
        scalars such as Constants or Functions.  By default the numbers themselves.

    Returns
    -------
    list
        One UFL scalar for each output.

    Raises
    ------
    NotImplementedError
        If the network holds another kind of layer.
    """
    given = None if weights is None else iter(weights)
    values = [ufl.as_ufl(op) for op in operands]
    for layer in _layers(net):
        values = _apply(layer, values, given)
    return values


def _layers(net: nn.Module) -> list[nn.Module]:
    if isinstance(net, MLP):
        return _layers(net.layers)
    if isinstance(net, nn.Sequential):
        return [inner for layer in net for inner in _layers(layer)]
    return [net]


def _apply(layer: nn.Module, x: list[Any], given: Any) -> list[Any]:
    if isinstance(layer, nn.Linear):
        return _linear(layer, x, given)
    if isinstance(layer, InputScaling):
        centre, half = layer.centre.tolist(), layer.half_width.tolist()
        return [(xi - c) / h for xi, c, h in zip(x, centre, half, strict=True)]
    if isinstance(layer, Output) and layer.bounds is not None:
        lower, upper = layer.bounds
        return [lower + (upper - lower) * _sigmoid(xi) for xi in x]
    functions: dict[type[nn.Module], Callable[[Any], Any]] = {
        nn.Tanh: ufl.tanh,
        nn.Sigmoid: _sigmoid,
        nn.Softplus: _softplus,
        nn.SiLU: lambda xi: xi * _sigmoid(xi),
        nn.ReLU: lambda xi: ufl.max_value(xi, 0),
        nn.Identity: lambda xi: xi,
    }
    if isinstance(layer, Output):
        function = {None: functions[nn.Identity], "exp": ufl.exp, "softplus": _softplus}[layer.kind]
    elif type(layer) in functions:
        function = functions[type(layer)]
    else:
        raise NotImplementedError(
            f"to_ufl: cannot write out a {type(layer).__name__}: it knows Linear, "
            f"{', '.join(kind.__name__ for kind in functions)} and femnn's MLP."
        )
    return [function(xi) for xi in x]


def _linear(layer: nn.Linear, x: list[Any], given: Any) -> list[Any]:
    matrix = _entries(layer.weight, given)
    bias = [0.0] * layer.out_features if layer.bias is None else _entries(layer.bias, given)
    n = layer.in_features
    return [
        sum((matrix[i * n + j] * x[j] for j in range(n)), bias[i])
        for i in range(layer.out_features)
    ]


def _entries(parameter: Tensor, given: Any) -> list[Any]:
    numbers = parameter.detach().reshape(-1).tolist()
    return numbers if given is None else [next(given) for _ in numbers]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + ufl.exp(-x))


def _softplus(x: Any) -> Any:
    return ufl.max_value(x, 0) + ufl.ln(1 + ufl.exp(-abs(x)))
