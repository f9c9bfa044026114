"""Torch modules for physical laws.  Needs torch only.

All but :class:`Gradient`, which differentiates inside, can be handed to other programs with
torch's own export, for any number of points:

    torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("points")},))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import debug_unwrap, vjp

from femnn.networks.config import Configured, generator_of, name_of
from femnn.networks.inputs import Bounds, InputScaling, as_ranges

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Gradient",
    "InputScaling",
    "Jacobian",
    "Output",
    "initialise",
    "softplus",
]

# Torch's own threshold, 20, makes softplus jump by 2e-9, which is neither monotone nor convex.
SOFTPLUS_THRESHOLD = 40.0

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": lambda: nn.Softplus(threshold=SOFTPLUS_THRESHOLD),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


class Output(Configured, nn.Module):
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
        self.config = {"kind": list(self.bounds) if self.bounds else self.kind}

    def forward(self, x: Tensor) -> Tensor:
        if self.bounds is not None:
            lower, upper = self.bounds
            return lower + (upper - lower) * torch.sigmoid(x)
        if self.kind == "softplus":
            return softplus(x)
        if self.kind == "exp":
            return torch.exp(x)
        return x

    def extra_repr(self) -> str:
        return repr(self.bounds or self.kind)


class MLP(Configured, nn.Module):
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
        check_widths("MLP", widths)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"MLP: activation={activation!r} is unknown, use one of {sorted(ACTIVATIONS)}."
            )
        ranges = as_ranges(input_range, widths[0])
        self.config = {
            "widths": [int(w) for w in widths],
            "activation": activation,
            "output": list(output) if isinstance(output, (tuple, list)) else output,
            "input_range": ranges,
            "init": init,
            "seed": seed,
            "dtype": name_of(dtype),
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

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, outputs)``."""
        return self.layers(x)


class Gradient(Configured, nn.Module):
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

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as :meth:`from_config` takes them."""
        return {"net": self.net}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, inputs)``.

        Raises
        ------
        ValueError
            If the module has more than one output.
        """
        y, slopes = _with_slopes(self.net, x)
        if y.shape[1:] != (1,):
            raise ValueError(
                f"Gradient: the module must have one output, it gave {tuple(y.shape)} "
                f"for input {tuple(x.shape)}."
            )
        return slopes[0]


class Jacobian(Configured, nn.Module):
    """The derivatives of all of a module's outputs with respect to its inputs, as a module.

    Shares its parameters with the module, as :class:`Gradient`, which is it for one output.

    Parameters
    ----------
    net
        A module that maps ``(points, inputs)`` to ``(points, outputs)``, each point on its own.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    @property
    def config(self) -> dict[str, Any]:
        """The module."""
        return {"net": self.net}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, outputs * inputs)``, row by row."""
        return torch.cat(_with_slopes(self.net, x)[1], 1)


def _with_slopes(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values at points, and the derivatives of each output with respect to its point."""
    if debug_unwrap(x) is not x:  # torch.func's transforms take derivatives by their own kind only
        y, product = vjp(net, x)[:2]
        return y, [product(one.expand_as(y))[0] for one in torch.eye(y.shape[1]).to(y)]
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_(True)
        y = net(x)
        if not y.requires_grad:
            return y, [torch.zeros_like(x) for _ in range(y.shape[1])]
        rows = [
            torch.autograd.grad(
                column.sum(), x, create_graph=keep_graph, retain_graph=True, allow_unused=True
            )[0]
            for column in y.unbind(1)
        ]
    return y, [torch.zeros_like(x) if row is None else row for row in rows]


def softplus(x: Tensor) -> Tensor:
    """The logarithm of 1 + exp(x), right to rounding for all x."""
    return nn.functional.softplus(x, threshold=SOFTPLUS_THRESHOLD)


def check_widths(name: str, widths: Sequence[Any]) -> None:
    """Refuse widths of which no network can be made."""
    if len(widths) < 2 or any(int(w) != w or w < 1 for w in widths):
        raise ValueError(
            f"{name}{tuple(widths)}: give the number of inputs, the hidden widths and the number "
            f"of outputs as positive integers, for example {name}(1, 30, 30, 1)."
        )


def initialise(net: nn.Module, scheme: str, seed: int) -> None:
    """Draw new weights for all linear layers of ``net`` from a generator of its own."""
    generator = generator_of(seed)
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
