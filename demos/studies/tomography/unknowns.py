"""What is not known: the conductivity, as a network or as a field, and the river's law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import firedrake as fd
import numpy as np
import torch

import femnn

from .aquifer import BED, GUESS, LENGTH, Geology

ROBIN = 1.42
LONG, SHORT = 200.0, 25.0  # correlation lengths of the field along layers and across, m
DEVIATION = 0.6  # its standard deviation


class LogConductivity(torch.nn.Module):
    """log K of the place and the layer, with a network for what varies.

    Inputs are x and y in units of the aquifer's length, the shares of aquitard and upper aquifer,
    and how near the fault is.
    """

    def __init__(self, width: int, seed: int):
        super().__init__()
        self.net = femnn.MLP(5, width, width, 1, init="normal", seed=seed)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        lower, aquitard, upper = GUESS
        clay, sand = inputs[:, 2:3], inputs[:, 3:4]
        guess = lower + (aquitard - lower) * clay + (upper - lower) * sand
        return guess + 0.5 * self.net(inputs)


class Leakage(torch.nn.Module):
    """The river's loss in m/d by stage minus head in metres: zero at zero, and never falling."""

    def __init__(self, width: int, seed: int):
        super().__init__()
        self.net = femnn.MonotoneMLP(1, width, 1, seed=seed)

    def forward(self, difference: torch.Tensor) -> torch.Tensor:
        return 0.02 * (self.net(difference) - self.net(torch.zeros_like(difference[:1])))


def inputs_of(ground: Geology) -> tuple:
    """The operands of the conductivity's network."""
    _, aquitard, upper = ground.layer
    return ground.x / LENGTH, ground.y / LENGTH, aquitard, upper, ground.near_fault


class NetworkAquifer:
    """The conductivity as a network of place and layer; models can be apart from each other.

    Parameters
    ----------
    width
        Of both hidden layers.
    seed
        Of the initial weights.
    """

    def __init__(self, width: int, seed: int):
        self.conductivity, self.leak = LogConductivity(width, seed), Leakage(6, seed + 1)
        self.networks: dict[str, torch.nn.Module] = {
            "log_K": self.conductivity,
            "leakage": self.leak,
        }
        self.controls = [femnn.Weights.of(net) for net in self.networks.values()]
        self.priors = [femnn.GaussianPrior(w, 1.0) for w in self.controls]

    def log_K(self, ground: Geology) -> Any:
        """log K, K in m/d."""
        return femnn.NeuralCoefficient(self.conductivity, *inputs_of(ground), degree=2)

    def leakage(self) -> Callable[[Any], Any]:
        """The river's loss as a function of the difference."""
        return lambda d: femnn.NeuralCoefficient(self.leak, d, measure=fd.ds_t, degree=BED)


class FieldAquifer:
    """The conductivity as a field around a number for each layer, on a mesh that all tests share.

    Parameters
    ----------
    space
        The space of the field.
    seed
        Of the leakage's initial weights.
    """

    def __init__(self, space: fd.FunctionSpace, seed: int):
        self.field = fd.Function(space, name="deviation of log K")
        self.means = fd.Constant([0.0, 0.0, 0.0], name="deviation of the layers' log K")
        self.leak = Leakage(6, seed + 1)
        weights = femnn.Weights.of(self.leak)
        self.controls = [self.field, self.means, weights]
        self.networks: dict[str, torch.nn.Module] = {"leakage": self.leak}
        self.priors = [
            femnn.FieldPrior(self.field, _smooth(space)),
            femnn.GaussianPrior(self.means, 1.0, fixed=True),
            femnn.GaussianPrior(weights, 1.0, fixed=True),
        ]

    def log_K(self, ground: Geology) -> Any:
        """log K, K in m/d."""
        by_layer = zip(GUESS, ground.layer, strict=True)
        of_layers = ((start + self.means[i]) * share for i, (start, share) in enumerate(by_layer))
        return sum(of_layers) + self.field

    def leakage(self) -> Callable[[Any], Any]:
        """The river's loss as a function of the difference."""
        return lambda d: femnn.NeuralCoefficient(self.leak, d, measure=fd.ds_t, degree=BED)


def _smooth(space: fd.FunctionSpace) -> Any:
    """An elliptic operator of which the inverse square is the field's covariance.

    The Robin condition keeps the variance at the boundary as it is inside, about.
    """
    u, v = fd.TrialFunction(space), fd.TestFunction(space)
    along = fd.inner(u.dx(0), v.dx(0)) + fd.inner(u.dx(1), v.dx(1))
    inside = u * v + LONG**2 * along + SHORT**2 * fd.inner(u.dx(2), v.dx(2))
    edge = LONG / ROBIN * u * v * fd.ds_v + SHORT / ROBIN * u * v * (fd.ds_t + fd.ds_b)
    # In three dimensions the variance of (1 - l^2 Laplace)^-2 is 1 / (8 pi l^3).
    scale = 1 / float(DEVIATION * np.sqrt(8 * np.pi * LONG**2 * SHORT))
    return scale * inside * fd.dx + scale * edge


class LayeredAquifer:
    """What is usually fitted: one conductivity for each layer, and a leakage that is linear.

    Parameters
    ----------
    precision
        Of the prior of each logarithm.
    """

    def __init__(self, precision: float = 0.25):
        self.means = fd.Constant([0.0, 0.0, 0.0], name="deviation of the layers' log K")
        self.log_bed = fd.Constant(0.0, name="log of the bed's conductance")
        self.controls = [self.means, self.log_bed]
        self.networks: dict[str, torch.nn.Module] = {}
        self.priors = [femnn.GaussianPrior(c, precision, fixed=True) for c in self.controls]

    def log_K(self, ground: Geology) -> Any:
        """log K, K in m/d."""
        by_layer = zip(GUESS, ground.layer, strict=True)
        return sum((start + self.means[i]) * share for i, (start, share) in enumerate(by_layer))

    def leakage(self) -> Callable[[Any], Any]:
        """The river's loss as a function of the difference."""
        return lambda d: 0.01 * fd.exp(self.log_bed) * d


Aquifer = NetworkAquifer | FieldAquifer | LayeredAquifer
