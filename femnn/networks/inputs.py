"""Modules for a network's inputs: scaling, periodic and Fourier.  Needs torch only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from femnn.networks.config import Configured, generator_of, name_of

Bounds = Sequence[float]


class InputScaling(Configured, nn.Module):
    """Map each input from its range to [-1, 1].

    Parameters
    ----------
    ranges
        One ``(lower, upper)`` pair for each input, in the input's own unit.
    dtype
        The dtype of the stored factors.

    Attributes
    ----------
    ranges : list
        The pairs, as :class:`~femnn.MLP` takes them for ``input_range``.

    Raises
    ------
    ValueError
        If a pair is not finite with lower < upper.
    """

    centre: Tensor
    half_width: Tensor

    def __init__(self, ranges: Sequence[Bounds], dtype: torch.dtype = torch.float64):
        super().__init__()
        limits = torch.tensor([list(map(float, r)) for r in ranges], dtype=dtype).reshape(-1, 2)
        lower, upper = limits[:, 0], limits[:, 1]
        if not bool((torch.isfinite(limits).all()) and (lower < upper).all()):
            raise ValueError(
                f"input_range={list(ranges)!r}: each pair must be finite with lower < upper."
            )
        self.register_buffer("centre", (lower + upper) / 2)
        self.register_buffer("half_width", (upper - lower) / 2)

    @classmethod
    def fit(cls, data: Any, method: str = "range", dtype: torch.dtype = torch.float64) -> Self:
        """Find the ranges from samples of the inputs.

        Parameters
        ----------
        data
            Samples, shape ``(samples, inputs)``: a tensor, an array or nested lists.
        method
            ``"range"`` maps the smallest and largest sample to -1 and 1; ``"std"`` gives
            the samples mean 0 and standard deviation 1, and suits data with outliers.
        dtype
            The dtype of the stored factors.

        Returns
        -------
        InputScaling
            The module with these ranges.

        Raises
        ------
        ValueError
            If the data is not a table of at least two finite samples, an input has the same
            value in all of them, or the method is unknown.

        Examples
        --------
        >>> scaling = InputScaling.fit([[270.0, 0.1], [310.0, 0.5]])
        >>> net = torch.nn.Sequential(scaling, torch.nn.Linear(2, 1, dtype=torch.float64))
        """
        samples = torch.as_tensor(data, dtype=torch.float64)
        _check_samples(samples)
        if method == "range":
            lower, upper = samples.amin(0), samples.amax(0)
        elif method == "std":
            mean, deviation = samples.mean(0), samples.std(0, correction=0)
            lower, upper = mean - deviation, mean + deviation
        else:
            raise ValueError(
                f"InputScaling.fit: method={method!r} is unknown, use 'range' or 'std'."
            )
        return cls(torch.stack([lower, upper], 1).tolist(), dtype)

    @property
    def ranges(self) -> list[list[float]]:
        """One ``[lower, upper]`` list for each input."""
        lower, upper = self.centre - self.half_width, self.centre + self.half_width
        return torch.stack([lower, upper], 1).tolist()

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as :meth:`from_config` takes them."""
        return {"ranges": self.ranges, "dtype": name_of(self.centre.dtype)}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to the same shape.

        Raises
        ------
        ValueError
            If there is not one input for each range.
        """
        if x.shape[-1] != len(self.centre):  # one input would be taken for all
            raise ValueError(
                f"InputScaling: got {x.shape[-1]} inputs for {len(self.centre)} input ranges."
            )
        return (x - self.centre) / self.half_width


class PeriodicInputs(Configured, nn.Module):
    """Replace periodic inputs by sines and cosines, so that what follows is periodic in them.

    Parameters
    ----------
    periods
        One entry for each input: its period, in the input's own unit, or ``None`` for an
        input that passes as it is.
    harmonics
        Number of sine and cosine pairs for each periodic input.
    dtype
        The dtype of the stored factors.

    Attributes
    ----------
    n_outputs : int
        Number of features, the number of inputs of the network behind.

    Raises
    ------
    ValueError
        If no period is given, one is not positive, or ``harmonics`` is not a positive integer.

    Examples
    --------
    A law of the day of the year and of depth:

    >>> features = PeriodicInputs([365.25, None])
    >>> net = torch.nn.Sequential(features, torch.nn.Linear(features.n_outputs, 1))
    """

    frequencies: Tensor

    def __init__(
        self,
        periods: Sequence[float | None],
        harmonics: int = 1,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        given = [p for p in periods if p is not None]
        if not given or not all(0 < p < math.inf for p in given):
            raise ValueError(
                f"PeriodicInputs: periods={list(periods)!r} must hold a positive number or None "
                "for each input, and at least one number."
            )
        if int(harmonics) != harmonics or harmonics < 1:
            raise ValueError(f"PeriodicInputs: harmonics={harmonics!r}, wanted 1, 2, 3, ...")
        self.config = {
            "periods": [None if p is None else float(p) for p in periods],
            "harmonics": int(harmonics),
            "dtype": name_of(dtype),
        }
        self.n_outputs = len(periods) + len(given) * (2 * int(harmonics) - 1)
        multiples = torch.arange(1, int(harmonics) + 1, dtype=dtype)
        rates = [[2 * math.pi / p * k for k in multiples.tolist()] for p in given]
        self.register_buffer("frequencies", torch.tensor(rates, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, n_outputs)``, in the order of the inputs.

        Raises
        ------
        ValueError
            If there is not one input for each entry of ``periods``.
        """
        periods = self.config["periods"]
        if x.shape[1] != len(periods):
            raise ValueError(
                f"PeriodicInputs: got {x.shape[1]} inputs for {len(periods)} entries of periods."
            )
        columns, rates = [], iter(self.frequencies)
        for i, period in enumerate(periods):
            column = x[:, i : i + 1]
            if period is None:
                columns.append(column)
            else:
                angles = column * next(rates)
                columns += [torch.sin(angles), torch.cos(angles)]
        return torch.cat(columns, 1)


class FourierFeatures(Configured, nn.Module):
    """Random Fourier features: cos and sin of 2 pi B x with a random, fixed B.

    They let a small network learn functions with fine structure, which a network of the
    inputs themselves learns late or never: Tancik et al., "Fourier features let networks
    learn high frequency functions in low dimensional domains" (2020); Rahimi and Recht
    (2007).

    Parameters
    ----------
    n_inputs
        Number of inputs; they should be of order one (see :class:`InputScaling`).
    n_features
        Number of frequencies; there are twice as many outputs.
    scale
        Standard deviation of B's entries: the typical number of waves per unit of input.
    seed
        Seed of B; torch's global generator is not touched.
    dtype
        The dtype of B.

    Attributes
    ----------
    n_outputs : int
        Number of features, the number of inputs of the network behind.

    Raises
    ------
    ValueError
        If a number or the scale is not positive.
    """

    matrix: Tensor

    def __init__(
        self,
        n_inputs: int,
        n_features: int,
        scale: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        if min(n_inputs, n_features) < 1 or not 0 < scale < math.inf:
            raise ValueError(
                f"FourierFeatures: n_inputs={n_inputs!r}, n_features={n_features!r}, "
                f"scale={scale!r}: wanted positive numbers."
            )
        self.config = {
            "n_inputs": int(n_inputs),
            "n_features": int(n_features),
            "scale": float(scale),
            "seed": seed,
            "dtype": name_of(dtype),
        }
        self.n_outputs = 2 * int(n_features)
        generator = generator_of(seed)
        matrix = torch.randn(n_features, n_inputs, generator=generator, dtype=torch.float64)
        self.register_buffer("matrix", (scale * matrix).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(points, inputs)`` to ``(points, 2 * n_features)``, all cosines first."""
        angles = 2 * math.pi * nn.functional.linear(x, self.matrix)
        return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


def as_ranges(ranges: Any, n_inputs: int) -> list[list[float]] | None:
    """One ``[lower, upper]`` list for each input, from one pair or a sequence of pairs."""
    if ranges is None:
        return None
    if not isinstance(ranges[0], (tuple, list)):
        ranges = [ranges] * n_inputs
    if len(ranges) != n_inputs or any(len(r) != 2 for r in ranges):
        raise ValueError(
            f"input_range={ranges!r} must hold one (lower, upper) pair for each of the "
            f"{n_inputs} inputs."
        )
    return [[float(lower), float(upper)] for lower, upper in ranges]


def _check_samples(samples: Tensor) -> None:
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(
            f"InputScaling.fit: got data of shape {tuple(samples.shape)}, wanted (samples, "
            "inputs) with at least two samples; one input is data[:, None]."
        )
    bad = _columns(~torch.isfinite(samples).all(0))
    if bad:
        raise ValueError(
            f"InputScaling.fit: column {bad} of the data holds NaN or infinity. Leave these "
            "samples out."
        )
    constant = _columns(samples.amin(0) == samples.amax(0))
    if constant:
        raise ValueError(
            f"InputScaling.fit: column {constant} of the data has one value in all samples, so it "
            "has no range. Leave this input out, or give its range to InputScaling."
        )


def _columns(mask: Tensor) -> str:
    return ", ".join(str(i) for i in torch.nonzero(mask)[:, 0].tolist())
