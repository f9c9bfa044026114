"""Networks that are monotone or convex for all weights.  Needs torch only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from femnn.networks.config import Configured, generator_of, name_of
from femnn.networks.inputs import Bounds, InputScaling, as_ranges
from femnn.networks.mlp import Output, check_widths, softplus

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": softplus,
}


class PositiveLinear(nn.Module):
    """A linear map with positive entries, the softplus of the parameter ``raw``."""

    def __init__(self, n_inputs: int, n_outputs: int, dtype: torch.dtype):
        super().__init__()
        self.raw = nn.Parameter(torch.empty(n_outputs, n_inputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, softplus(self.raw))


class GatedLinear(nn.Module):
    """A linear map whose inputs are first multiplied by functions of the free inputs."""

    def __init__(
        self, n_inputs: int, n_outputs: int, n_free: int, positive: bool, dtype: torch.dtype
    ):
        super().__init__()
        self.positive = positive
        self.linear = (
            PositiveLinear(n_inputs, n_outputs, dtype)
            if positive
            else _linear(n_inputs, n_outputs, dtype, bias=False)
        )
        self.gate = _linear(n_free, n_inputs, dtype) if n_free else None

    def forward(self, x: Tensor, free: Tensor) -> Tensor:
        if self.gate is not None:
            factor = self.gate(free)
            x = x * (softplus(factor) if self.positive else factor)
        return self.linear(x)


class ConstrainedLayer(nn.Module):
    """The sum of gated linear maps of several groups of inputs, and of the free inputs."""

    def __init__(self, sizes: dict[str, int], n_free: int, n_outputs: int, dtype: torch.dtype):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(n_outputs, dtype=dtype))
        self.groups = nn.ModuleDict(
            {
                name: GatedLinear(size, n_outputs, n_free, name != "convex", dtype)
                for name, size in sizes.items()
                if size
            }
        )
        self.free = _linear(n_free, n_outputs, dtype, bias=False) if n_free else None

    def forward(self, inputs: dict[str, Tensor], free: Tensor) -> Tensor:
        total = sum((group(inputs[name], free) for name, group in self.groups.items()), self.bias)
        return total if self.free is None else total + self.free(free)


@dataclass(frozen=True)
class InputGroups:
    """Which inputs a constrained network takes how; ``falling`` inputs enter negated."""

    rising: tuple[int, ...]
    falling: tuple[int, ...]
    convex: tuple[int, ...]
    free: tuple[int, ...]

    @property
    def monotone(self) -> tuple[int, ...]:
        return self.rising + self.falling


class ConstrainedMLP(Configured, nn.Module):
    """What :class:`MonotoneMLP` and :class:`ConvexMLP` have in common.

    Hidden values pass through positive matrices and an increasing activation, monotone
    inputs enter each layer through positive matrices, convex inputs through any matrices,
    and free inputs, which have hidden layers of their own, shift each layer and multiply
    what enters it.
    """

    signs: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        groups: InputGroups,
        activation: str,
        output: str | Bounds | None,
        ranges: list[list[float]] | None,
        seed: int,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.inputs, self.activation = groups, activation
        n_free = len(groups.free)
        self.scaling = nn.Identity() if ranges is None else InputScaling(ranges, dtype)
        signs = [1.0] * len(groups.rising) + [-1.0] * len(groups.falling)
        self.register_buffer("signs", torch.tensor(signs, dtype=dtype), persistent=False)
        self.layers, self.free_layers = nn.ModuleList(), nn.ModuleList()
        sizes = {"hidden": 0, "monotone": len(groups.monotone), "convex": len(groups.convex)}
        for i, width in enumerate(widths[1:]):
            if i:
                sizes["hidden"] = widths[i]
                if groups.free:
                    self.free_layers.append(_linear(n_free, widths[i], dtype))
                    n_free = widths[i]
            self.layers.append(ConstrainedLayer(sizes, n_free, width, dtype))
        self.output = Output(output)
        _initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, outputs)``."""
        x = self.scaling(x)
        free = x[:, self.inputs.free]
        inputs = {
            "monotone": x[:, self.inputs.monotone] * self.signs,
            "convex": x[:, self.inputs.convex],
        }
        for i, layer in enumerate(self.layers):
            if i and self.inputs.free:
                free = torch.tanh(self.free_layers[i - 1](free))
            values = layer(inputs, free)
            inputs["hidden"] = ACTIVATIONS[self.activation](values)
        return self.output(values)


class MonotoneMLP(ConstrainedMLP):
    """A network that increases (or decreases) in chosen inputs, for all weights.

    In the other inputs it is free.  Positive weights and an increasing bounded activation
    make every increasing function reachable: Sill, "Monotonic networks" (1998); Daniels
    and Velikova, "Monotone and partially monotone neural networks" (2010).  The monotone
    inputs also enter every layer directly, so that the law goes on rising outside the
    range of its data.

    Parameters
    ----------
    *widths
        Number of inputs, hidden widths, number of outputs, as for :class:`~femnn.MLP`.
    increasing
        The inputs in which every output increases, by their positions; by default all
        that are not in ``decreasing``.
    decreasing
        The inputs in which every output decreases.
    activation
        ``"tanh"`` or ``"sigmoid"``.
    output, input_range, seed, dtype
        As for :class:`~femnn.MLP`.

    Raises
    ------
    ValueError
        If an argument is unknown, or an input is named twice or none at all.

    Examples
    --------
    A water content that rises with the pressure and depends in any way on the depth:

    >>> net = MonotoneMLP(2, 16, 1, increasing=[0], output=(0.05, 0.45))
    """

    def __init__(
        self,
        *widths: int,
        increasing: Sequence[int] | None = None,
        decreasing: Sequence[int] = (),
        activation: str = "tanh",
        output: str | Bounds | None = None,
        input_range: Sequence[Bounds] | Bounds | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        check_widths("MonotoneMLP", widths)
        if activation not in ("tanh", "sigmoid"):
            raise ValueError(
                f"MonotoneMLP: activation={activation!r} is unknown, use 'tanh' or 'sigmoid'."
            )
        falling = _positions("MonotoneMLP: decreasing", decreasing, widths[0])
        others = [i for i in range(widths[0]) if i not in falling]
        rising = _positions(
            "MonotoneMLP: increasing", others if increasing is None else increasing, widths[0]
        )
        if set(rising) & set(falling) or not rising + falling:
            raise ValueError(
                f"MonotoneMLP: increasing={list(rising)} and decreasing={list(falling)} must "
                "share no input and together hold at least one."
            )
        free = tuple(i for i in others if i not in rising)
        ranges = as_ranges(input_range, widths[0])
        super().__init__(
            widths, InputGroups(rising, falling, (), free), activation, output, ranges, seed, dtype
        )
        self.config = {
            "widths": [int(w) for w in widths],
            "increasing": list(rising),
            "decreasing": list(falling),
            "activation": activation,
            "output": self.output.config["kind"],
            "input_range": ranges,
            "seed": seed,
            "dtype": name_of(dtype),
        }


class ConvexMLP(ConstrainedMLP):
    """A network that is convex in chosen inputs, for all weights.

    The partially input-convex network of Amos, Xu and Kolter, "Input convex neural
    networks" (2017), with softplus in the place of its rectifiers, so that second
    derivatives exist.  A stress or flux that is its gradient (:class:`~femnn.Gradient`)
    has a symmetric positive semi-definite tangent.

    Parameters
    ----------
    *widths
        Number of inputs, hidden widths, number of outputs, as for :class:`~femnn.MLP`.
    convex
        The inputs in which every output is (jointly) convex, by their positions; by
        default all.  In the others it is free.
    increasing
        Those among the convex inputs in which every output also increases, as a
        polyconvex energy must in convex invariants of the deformation.
    output
        ``None``, or ``"softplus"`` or ``"exp"`` for positive values.
    input_range, seed, dtype
        As for :class:`~femnn.MLP`.

    Raises
    ------
    ValueError
        If no input is convex, an increasing one is not, or ``output`` would not be convex.

    Examples
    --------
    A flux as a function of two components of a gradient, with a symmetric tangent:

    >>> energy = ConvexMLP(2, 16, 16, 1)
    >>> flux = femnn.Gradient(energy)  # doctest: +SKIP
    """

    def __init__(
        self,
        *widths: int,
        convex: Sequence[int] | None = None,
        increasing: Sequence[int] = (),
        output: str | None = None,
        input_range: Sequence[Bounds] | Bounds | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        check_widths("ConvexMLP", widths)
        if output not in (None, "softplus", "exp"):
            raise ValueError(
                f"ConvexMLP: output={output!r} is not convex, use None, 'softplus' or 'exp'."
            )
        every = range(widths[0])
        bent = _positions("ConvexMLP: convex", every if convex is None else convex, widths[0])
        rising = _positions("ConvexMLP: increasing", increasing, widths[0])
        if not bent or not set(rising) <= set(bent):
            raise ValueError(
                f"ConvexMLP: convex={list(bent)} must hold at least one input, and all of "
                f"increasing={list(rising)}."
            )
        ranges = as_ranges(input_range, widths[0])
        groups = InputGroups(
            rising,
            (),
            tuple(i for i in bent if i not in rising),
            tuple(i for i in every if i not in bent),
        )
        super().__init__(widths, groups, "softplus", output, ranges, seed, dtype)
        self.config = {
            "widths": [int(w) for w in widths],
            "convex": list(bent),
            "increasing": list(rising),
            "output": output,
            "input_range": ranges,
            "seed": seed,
            "dtype": name_of(dtype),
        }


def _positions(name: str, given: Sequence[int], n_inputs: int) -> tuple[int, ...]:
    positions = tuple(int(i) for i in given)
    if len(set(positions)) < len(positions) or not all(0 <= i < n_inputs for i in positions):
        raise ValueError(
            f"{name}={list(given)!r}: wanted different positions from 0 to {n_inputs - 1}."
        )
    return positions


def _linear(n_inputs: int, n_outputs: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, n_inputs, n_outputs, bias=bias, dtype=dtype)


def _initialise(net: ConstrainedMLP, seed: int) -> None:
    """Draw weights with which layers average what enters them, and gates are near one."""
    generator = generator_of(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, PositiveLinear):
                mean = 1 / layer.raw.shape[1]
                layer.raw.uniform_(0.1 * mean, 1.9 * mean, generator=generator)
                layer.raw.expm1_().log_()
            elif isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for p in layer.parameters():
                    p.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, ConstrainedLayer):
                layer.bias.uniform_(-1, 1, generator=generator)
        for layer in net.modules():
            if isinstance(layer, GatedLinear) and layer.gate is not None:
                # softplus(log(e - 1)) = 1
                layer.gate.bias.fill_(math.log(math.e - 1) if layer.positive else 1.0)
