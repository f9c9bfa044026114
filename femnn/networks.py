"""Torch modules for physical laws.  Needs torch only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}

Bounds = Sequence[float]


class InputScaling(nn.Module):
    """Map each input from its range to [-1, 1].

    Parameters
    ----------
    ranges
        One ``(lower, upper)`` pair for each input, in the input's own unit.
    dtype
        The dtype of the stored factors.
    """

    centre: Tensor
    half_width: Tensor

    def __init__(self, ranges: Sequence[Sequence[float]], dtype: torch.dtype = torch.float64):
        super().__init__()
        limits = torch.tensor([list(map(float, r)) for r in ranges], dtype=dtype).reshape(-1, 2)
        lower, upper = limits[:, 0], limits[:, 1]
        if not bool((torch.isfinite(limits).all()) and (lower < upper).all()):
            raise ValueError(
                f"input_range={list(ranges)!r}: each pair must be finite with lower < upper."
            )
        self.register_buffer("centre", (lower + upper) / 2)
        self.register_buffer("half_width", (upper - lower) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.half_width


class Output(nn.Module):
    """The last step of a network: free, positive, or between two bounds.

    Parameters
    ----------
    kind
        ``None`` (no change), ``"softplus"`` or ``"exp"`` (positive), or a pair
        ``(lower, upper)``: a sigmoid between these two values.
    """

    def __init__(self, kind: str | Bounds | None = None):
        super().__init__()
        if isinstance(kind, str):
            known = kind in ("softplus", "exp")
        else:
            known = kind is None or (len(kind) == 2 and kind[0] < kind[1])
        if not known:
            raise ValueError(
                f"output={kind!r} is unknown: use None, 'softplus', 'exp', "
                "or a pair (lower, upper) with lower < upper."
            )
        self.bounds = None if kind is None or isinstance(kind, str) else tuple(map(float, kind))
        self.kind = kind if isinstance(kind, str) else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bounds is not None:
            lower, upper = self.bounds
            return lower + (upper - lower) * torch.sigmoid(x)
        if self.kind == "softplus":
            return nn.functional.softplus(x)
        if self.kind == "exp":
            return torch.exp(x)
        return x

    def extra_repr(self) -> str:
        return repr(self.bounds or self.kind)


class MLP(nn.Module):
    """A multilayer perceptron for a physical law.

    Parameters
    ----------
    *widths
        Number of inputs, widths of the hidden layers, number of outputs:
        ``MLP(1, 30, 30, 1)`` has two hidden layers of 30.
    activation
        One of ``"tanh"``, ``"sigmoid"``, ``"softplus"``, ``"silu"``, ``"gelu"``, ``"relu"``.
        Newton's method wants smooth laws: ``"relu"`` is there for laws outside the PDE.
    output
        ``None``, ``"softplus"`` or ``"exp"`` for positive values, or ``(lower, upper)``
        for values between two bounds.
    input_range
        One ``(lower, upper)`` pair for each input (or one pair for all of them), mapped
        to [-1, 1] before the first layer.  Physical inputs are rarely of order one, and
        a network learns slowly where they are not.
    init
        ``"torch"`` (the default of :class:`torch.nn.Linear`), ``"xavier"`` (Glorot's
        uniform weights, zero biases), or the two of Mitusch, Funke and Kuchta (2021):
        ``"uniform"`` (weights U[0, 1), zero biases) and ``"normal"`` (weights
        N(0, 2 / inputs), zero biases).
    seed
        Seed of the initial weights; torch's global generator is not touched.
    dtype
        ``torch.float64`` by default, as the finite element model around it.

    Attributes
    ----------
    config : dict
        The arguments, enough to build the same module again.

    Raises
    ------
    ValueError
        If an argument is unknown or the widths are not positive integers.

    Examples
    --------
    >>> net = MLP(2, 16, 1, output="softplus", seed=1)
    >>> net(torch.zeros(5, 2, dtype=torch.float64)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        *widths: int,
        activation: str = "tanh",
        output: str | Bounds | None = None,
        input_range: Sequence[Bounds] | Bounds | None = None,
        init: str = "torch",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if len(widths) < 2 or any(int(w) != w or w < 1 for w in widths):
            raise ValueError(
                f"MLP{widths}: give the number of inputs, the hidden widths and the number "
                "of outputs as positive integers, for example MLP(1, 30, 30, 1)."
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"MLP: activation={activation!r} is unknown, use one of {sorted(ACTIVATIONS)}."
            )
        ranges = _as_ranges(input_range, widths[0])
        self.config = {
            "widths": [int(w) for w in widths],
            "activation": activation,
            "output": list(output) if isinstance(output, (tuple, list)) else output,
            "input_range": ranges,
            "init": init,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        }
        layers: list[nn.Module] = []
        if ranges is not None:
            layers.append(InputScaling(ranges, dtype))
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            if i:
                layers.append(ACTIVATIONS[activation]())
            layers.append(nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=dtype))
        layers.append(Output(output))
        self.layers = nn.Sequential(*layers)
        initialise(self, init, seed)

    @classmethod
    def from_config(cls, config: dict) -> MLP:
        """Build the module that ``config`` (see the attribute) describes."""
        options = dict(config)
        widths = options.pop("widths")
        options["dtype"] = getattr(torch, options["dtype"])
        return cls(*widths, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, outputs)``."""
        return self.layers(x)


class Gradient(nn.Module):
    """The derivative of a module's single output with respect to its inputs, as a module.

    Shares its parameters with the module, so a coefficient made of it is trained with the
    same weights: a penalty on the slope of a law, or its gradient in space.

    Parameters
    ----------
    net
        A module that maps ``(points, inputs)`` to ``(points, 1)``.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, inputs)``."""
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            y = self.net(x)
            if y.shape[1:] != (1,):
                raise ValueError(
                    f"Gradient: the module must have one output, it gave {tuple(y.shape)} "
                    f"for input {tuple(x.shape)}."
                )
            if not y.requires_grad:
                return torch.zeros_like(x)
            (slope,) = torch.autograd.grad(
                y.sum(), x, create_graph=keep_graph, materialize_grads=True
            )
        return slope


def initialise(net: nn.Module, scheme: str, seed: int) -> None:
    """Draw new weights for all linear layers of ``net`` from a generator of its own."""
    generator = torch.Generator().manual_seed(int(seed))
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                _initialise_linear(layer, scheme, generator)


def _initialise_linear(layer: nn.Linear, scheme: str, generator: torch.Generator) -> None:
    fan_in = layer.in_features
    layer.bias.zero_()
    if scheme == "torch":
        bound = 1 / math.sqrt(fan_in)
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    elif scheme == "xavier":
        bound = math.sqrt(6 / (fan_in + layer.out_features))
        layer.weight.uniform_(-bound, bound, generator=generator)
    elif scheme == "uniform":
        layer.weight.uniform_(0, 1, generator=generator)
    elif scheme == "normal":
        layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
    else:
        raise ValueError(
            f"init={scheme!r} is unknown, use 'torch', 'xavier', 'uniform' or 'normal'."
        )


def _as_ranges(ranges: Any, n_inputs: int) -> list[list[float]] | None:
    """One ``[lower, upper]`` list for each input, from one pair or a sequence of pairs."""
    if ranges is None:
        return None
    if not isinstance(ranges[0], (tuple, list)):
        ranges = [ranges] * n_inputs
    if len(ranges) != n_inputs or any(len(r) != 2 for r in ranges):
        raise ValueError(
            f"MLP: input_range={ranges!r} must hold one (lower, upper) pair for each of the "
            f"{n_inputs} inputs."
        )
    return [[float(lower), float(upper)] for lower, upper in ranges]
