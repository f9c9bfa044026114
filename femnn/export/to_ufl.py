"""A network written out as a UFL expression: an oracle for tests, and a way to hand over."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ufl
from torch import Tensor, nn

from femnn.networks.inputs import FourierFeatures, InputScaling, PeriodicInputs
from femnn.networks.mlp import MLP, Gradient, Output
from femnn.networks.shapes import ConstrainedMLP, PositiveLinear
from femnn.networks.symmetry import Even, Odd, SPDTensor, SymmetricTensor

Rule = Callable[["Writer", Any, list[Any]], list[Any]]
RULES: dict[type[nn.Module], Rule] = {}


def to_ufl(net: nn.Module, *operands: Any, weights: Sequence[Any] | None = None) -> list[Any]:
    """Write a network out as UFL expressions.

    Compiling it takes long beyond small widths; the values agree to rounding.

    Parameters
    ----------
    net
        Any of femnn's networks, or a :class:`torch.nn.Sequential` of them, of linear layers
        and of torch's ``Tanh``, ``Sigmoid``, ``Softplus``, ``SiLU``, ``GELU`` or ``ReLU``.
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
        If the network holds another kind of layer; :func:`rule` adds one.
    ValueError
        If there are not as many operands or weights as the network has.
    """
    return Writer(net, weights)(net, [ufl.as_ufl(op) for op in operands])


def rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how modules of these kinds are written out.

    The decorated function gets a :class:`Writer`, the module and its inputs as a list of UFL
    scalars, and returns the outputs as such a list.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


class Writer:
    """Writes modules out; called with a module and its inputs.

    Parameters
    ----------
    net
        The whole network.
    weights
        What stands for its trainable weights; ``None`` for their numbers.
    """

    def __init__(self, net: nn.Module, weights: Sequence[Any] | None):
        self._symbols: dict[int, list[Any]] = {}
        if weights is None:
            return
        trainable = [p for p in net.parameters() if p.requires_grad]
        given, total = list(weights), sum(p.numel() for p in trainable)
        if len(given) != total:
            raise ValueError(f"to_ufl: got {len(given)} weights for a network that has {total}.")
        for p in trainable:
            self._symbols[id(p)], given = given[: p.numel()], given[p.numel() :]

    def __call__(self, module: nn.Module, x: list[Any]) -> list[Any]:
        """The module's outputs for the inputs ``x``."""
        for kind in type(module).__mro__:
            # A subclass that computes something else has a rule of its own, or none.
            if kind in RULES and kind.forward is type(module).forward:
                return RULES[kind](self, module, x)
        raise NotImplementedError(
            f"to_ufl: cannot write out a {type(module).__name__}: it knows "
            f"{', '.join(sorted(kind.__name__ for kind in RULES))}. Another kind is added with "
            "femnn.export.to_ufl.rule."
        )

    def entries(self, tensor: Tensor) -> list[Any]:
        """A parameter's or a buffer's entries, flattened, as numbers or UFL scalars."""
        return self._symbols.get(id(tensor)) or tensor.detach().reshape(-1).tolist()


# Torch's layers


@rule(nn.Sequential)
def _sequential(write: Writer, net: nn.Sequential, x: list[Any]) -> list[Any]:
    for layer in net:
        x = write(layer, x)
    return x


@rule(nn.Linear)
def _linear(write: Writer, layer: nn.Linear, x: list[Any]) -> list[Any]:
    values = _product(write.entries(layer.weight), x, layer.out_features)
    if layer.bias is None:
        return values
    return _sum(values, write.entries(layer.bias))


@rule(nn.Identity)
def _identity(write: Writer, layer: nn.Identity, x: list[Any]) -> list[Any]:
    return x


@rule(nn.Softplus)
def _softplus_layer(write: Writer, layer: nn.Softplus, x: list[Any]) -> list[Any]:
    return [_softplus(layer.beta * xi) / layer.beta for xi in x]


@rule(nn.GELU)
def _gelu(write: Writer, layer: nn.GELU, x: list[Any]) -> list[Any]:
    if layer.approximate != "none":
        raise NotImplementedError(
            f"to_ufl: cannot write out GELU(approximate={layer.approximate!r}), only the exact one."
        )
    return [xi * (1 + ufl.erf(xi / math.sqrt(2))) / 2 for xi in x]


def _register_function(kind: type[nn.Module], function: Callable[[Any], Any]) -> None:
    RULES[kind] = lambda write, layer, x: [function(xi) for xi in x]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + ufl.exp(-x))


def _softplus(x: Any) -> Any:
    """Neither overflows, nor loses the derivative at zero, as max(x, 0) would."""
    x = ufl.as_ufl(x)
    return (x + abs(x)) / 2 + ufl.ln(1 + ufl.exp(-abs(x)))


_register_function(nn.Tanh, ufl.tanh)
_register_function(nn.Sigmoid, _sigmoid)
_register_function(nn.SiLU, lambda x: x * _sigmoid(x))
_register_function(nn.ReLU, lambda x: ufl.max_value(x, 0))


# femnn's networks


@rule(MLP)
def _mlp(write: Writer, net: MLP, x: list[Any]) -> list[Any]:
    return write(net.layers, x)


@rule(Output)
def _output(write: Writer, layer: Output, x: list[Any]) -> list[Any]:
    if layer.bounds is not None:
        lower, upper = layer.bounds
        return [lower + (upper - lower) * _sigmoid(xi) for xi in x]
    if layer.kind is None:
        return x
    function = {"exp": ufl.exp, "softplus": _softplus}[layer.kind]
    return [function(xi) for xi in x]


@rule(Gradient)
def _gradient(write: Writer, net: Gradient, x: list[Any]) -> list[Any]:
    x = [ufl.variable(xi) for xi in x]
    (value,) = write(net.net, x)
    return [ufl.diff(value, xi) for xi in x]


@rule(InputScaling)
def _scaling(write: Writer, layer: InputScaling, x: list[Any]) -> list[Any]:
    centre, half = write.entries(layer.centre), write.entries(layer.half_width)
    _check_operands(layer, x, len(centre))
    return [(xi - c) / h for xi, c, h in zip(x, centre, half, strict=True)]


@rule(PeriodicInputs)
def _periodic(write: Writer, layer: PeriodicInputs, x: list[Any]) -> list[Any]:
    periods = layer.config["periods"]
    _check_operands(layer, x, len(periods))
    values, rates = [], iter(layer.frequencies.tolist())
    for xi, period in zip(x, periods, strict=True):
        if period is None:
            values.append(xi)
        else:
            angles = [xi * rate for rate in next(rates)]
            values += [ufl.sin(a) for a in angles] + [ufl.cos(a) for a in angles]
    return values


@rule(FourierFeatures)
def _fourier(write: Writer, layer: FourierFeatures, x: list[Any]) -> list[Any]:
    turns = _product(write.entries(layer.matrix), x, len(layer.matrix))
    angles = [2 * math.pi * turn for turn in turns]
    return [ufl.cos(a) for a in angles] + [ufl.sin(a) for a in angles]


@rule(ConstrainedMLP)
def _constrained(write: Writer, net: ConstrainedMLP, x: list[Any]) -> list[Any]:
    groups = net.inputs
    _check_operands(
        net, x, sum(map(len, (groups.rising, groups.falling, groups.convex, groups.free)))
    )
    x = write(net.scaling, x)
    free = [x[i] for i in groups.free]
    inputs = {
        "monotone": [s * x[i] for i, s in zip(groups.monotone, net.signs.tolist(), strict=True)],
        "convex": [x[i] for i in groups.convex],
    }
    activate = {"tanh": ufl.tanh, "sigmoid": _sigmoid, "softplus": _softplus}[net.activation]
    for i, layer in enumerate(net.layers):
        if i and groups.free:
            free = [ufl.tanh(f) for f in write(net.free_layers[i - 1], free)]
        values = _constrained_layer(write, layer, inputs, free)
        inputs["hidden"] = [activate(v) for v in values]
    return write(net.output, values)


def _constrained_layer(
    write: Writer, layer: Any, inputs: dict[str, list[Any]], free: list[Any]
) -> list[Any]:
    """As the forward method of :class:`~femnn.constrained.ConstrainedLayer`."""
    total = write.entries(layer.bias)
    for name, group in layer.groups.items():
        total = _sum(total, _gated(write, group, inputs[name], free))
    return total if layer.free is None else _sum(total, write(layer.free, free))


def _gated(write: Writer, layer: Any, x: list[Any], free: list[Any]) -> list[Any]:
    """As the forward method of :class:`~femnn.constrained.GatedLinear`."""
    if layer.gate is not None:
        factors = write(layer.gate, free)
        if layer.positive:
            factors = [_softplus(f) for f in factors]
        x = [xi * f for xi, f in zip(x, factors, strict=True)]
    return write(layer.linear, x)


@rule(PositiveLinear)
def _positive_linear(write: Writer, layer: PositiveLinear, x: list[Any]) -> list[Any]:
    entries = [_softplus(r) for r in write.entries(layer.raw)]
    return _product(entries, x, len(layer.raw))


@rule(Odd, Even)
def _reflected(write: Writer, net: Odd | Even, x: list[Any]) -> list[Any]:
    mirrored = [flip * xi for flip, xi in zip(net.flips(len(x)), x, strict=True)]
    pairs = zip(write(net.net, x), write(net.net, mirrored), strict=True)
    return [(a + net.sign * b) / 2 for a, b in pairs]


@rule(SymmetricTensor)
def _symmetric(write: Writer, net: SymmetricTensor, x: list[Any]) -> list[Any]:
    triangle = write(net.net, x)
    return [triangle[place] for place in net.places]


@rule(SPDTensor)
def _positive_definite(write: Writer, net: SPDTensor, x: list[Any]) -> list[Any]:
    given = iter(write(net.net, x))
    rows = [[next(given) for _ in range(i)] + [_softplus(next(given))] for i in range(net.n)]
    triangle = [
        sum((rows[i][k] * rows[j][k] for k in range(j + 1)), net.smallest if i == j else 0)
        for i in range(net.n)
        for j in range(i + 1)
    ]
    return [triangle[place] for place in net.places]


def _product(matrix: list[Any], x: list[Any], n_rows: int) -> list[Any]:
    """A matrix, row by row, times a vector."""
    n = len(matrix) // n_rows
    if len(x) != n:
        raise ValueError(f"to_ufl: got {len(x)} inputs for a layer that takes {n}.")
    return [sum(matrix[i * n + j] * x[j] for j in range(n)) for i in range(n_rows)]


def _sum(a: list[Any], b: list[Any]) -> list[Any]:
    return [ai + bi for ai, bi in zip(a, b, strict=True)]


def _check_operands(net: nn.Module, x: list[Any], wanted: int) -> None:
    if len(x) != wanted:
        raise ValueError(
            f"to_ufl: got {len(x)} inputs for a {type(net).__name__} that takes {wanted}."
        )
