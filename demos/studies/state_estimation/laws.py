"""Laws of friction: Manning's n in s/m^(1/3) of the depth of the water in m."""

import numpy as np
import torch
from torch import Tensor, nn

import femnn

TEXTBOOK = 0.035  # s/m^(1/3), of a natural channel
LEAST = 0.05  # m: laws are constant below


class Law(nn.Module):
    """A law of the depth; subclasses give log(n / textbook), shape ``(points, 1)`` as the depth."""

    def forward(self, h: Tensor) -> Tensor:
        return TEXTBOOK * torch.exp(self.log_ratio(h.clamp(min=LEAST)))

    def log_ratio(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class Vegetated(Law):
    """The truth: a smooth bed, and plants that stand in the flow where the water is shallow."""

    def log_ratio(self, h: Tensor) -> Tensor:
        return torch.log((0.028 + 0.11 / (1 + (h / 0.9) ** 3)) / TEXTBOOK)


class Textbook(Law):
    """The constant that a model begins with."""

    def log_ratio(self, h: Tensor) -> Tensor:
        return 0 * h


class HandLaw(Law):
    """A law with a few numbers ``p``; the textbook's at zero."""

    n_numbers: int

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(self.n_numbers, dtype=torch.float64))


class Constant(HandLaw):
    """n is the same at all depths."""

    n_numbers = 1

    def log_ratio(self, h: Tensor) -> Tensor:
        return self.p[0] + 0 * h


class PowerOfDepth(HandLaw):
    """n = a h^-b."""

    n_numbers = 2

    def log_ratio(self, h: Tensor) -> Tensor:
        return self.p[0] - self.p[1] * torch.log(h / 2)


class Network(Law):
    """log(n / textbook) by a network of the depth.

    Parameters
    ----------
    width
        Of the hidden layer.
    seed
        Of the initial weights.
    """

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        self.net = femnn.MLP(1, width, 1, input_range=(0.5, 4.5), seed=seed)

    def log_ratio(self, h: Tensor) -> Tensor:
        return self.net(h)


def band_of_law(posterior: femnn.LaplacePosterior, law: Law, h: np.ndarray) -> tuple:
    """Mean and the ends of the 90 % band of n, taken as normal in log n.

    Parameters
    ----------
    posterior
        Whose controls hold the law's weights.
    law
        The law.
    h
        Depths, shape ``(n,)``.

    Returns
    -------
    mean, lower, upper : numpy.ndarray
        Each of shape ``(n,)``.
    """
    found = posterior.law(law, h)
    relative = femnn.Normal(0.0 * h, found.std / found.mean)
    lower, upper = relative.interval(0.9)
    return found.mean, found.mean * np.exp(lower), found.mean * np.exp(upper)
