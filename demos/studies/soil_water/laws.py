"""Laws of soil: the water content theta(h) and the conductivity K(h) in cm/d, of the head in cm."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import femnn

LN10 = float(np.log(10))
RANGE = (1.0, 3.0)  # of pF that networks scale to -1 and 1
LARGEST = 0.6  # water content, more than any pore space here
LOG_K = 3 * LN10  # a network's output of 1 in log K


def pF(h: Tensor) -> Tensor:
    """The logarithm of the suction, log10(-h / cm), which goes on smoothly to h = 0 and beyond."""
    return torch.asinh(-h / 2) / LN10


class Laws(nn.Module):
    """Both laws: what a step needs, theta(h) - theta(h_old) and K(h), of ``(h, h_old)``.

    Subclasses give ``theta`` and ``log_K``, of heads of any shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        h, old = x[:, :1], x[:, 1:]
        return torch.cat([self.theta(h) - self.theta(old), torch.exp(self.log_K(h))], 1)

    def theta(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def log_K(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class NetworkLaws(Laws):
    """Two monotone networks of pF: with suction soil becomes drier and less conductive.

    Parameters
    ----------
    width
        Of the one hidden layer of each.
    seed
        Of the initial weights.
    """

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        form = {"decreasing": [0], "input_range": RANGE}
        self.content = femnn.MonotoneMLP(1, width, 1, output=(0.0, LARGEST), seed=2 * seed, **form)
        self.conductivity = femnn.MonotoneMLP(1, width, 1, seed=2 * seed + 1, **form)

    def theta(self, h: Tensor) -> Tensor:
        return self.content(pF(h))

    def log_K(self, h: Tensor) -> Tensor:
        return LOG_K * self.conductivity(pF(h))


class VanGenuchten(Laws):
    """Van Genuchten's theta(h) and Mualem's K(h), six numbers ``p`` that begin at zero.

    M. Th. van Genuchten: A closed-form equation for predicting the hydraulic conductivity of
    unsaturated soils, Soil Sci. Soc. Am. J. 44 (1980).
    """

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def numbers(self) -> dict[str, Tensor]:
        """Residual and saturated content, alpha in 1/cm, n, K at saturation in cm/d, and l."""
        p = self.p
        residual = LARGEST / 4 * torch.sigmoid(p[0])
        return {
            "residual": residual,
            "saturated": residual + (LARGEST - residual) * torch.sigmoid(p[1]),
            "alpha": 0.02 * torch.exp(p[2]),
            "n": 1 + torch.exp(p[3] - 0.5),
            "K": 20 * torch.exp(p[4]),
            "l": 0.5 + p[5],
        }

    def theta(self, h: Tensor) -> Tensor:
        known = self.numbers()
        pores = known["saturated"] - known["residual"]
        return known["residual"] + pores * torch.exp(self._log_saturation(h))

    def log_K(self, h: Tensor) -> Tensor:
        known = self.numbers()
        m = 1 - 1 / known["n"]
        log_S = self._log_saturation(h)
        # 1 - (1 - S^(1/m))^m, where S^(1/m) is far below rounding of one in dry soil
        drained = -torch.expm1(m * torch.log1p(-torch.exp(log_S / m).clamp(max=1 - 1e-12)))
        return torch.log(known["K"]) + known["l"] * log_S + 2 * torch.log(drained)

    def _log_saturation(self, h: Tensor) -> Tensor:
        known = self.numbers()
        suction = 0.5 * (torch.sqrt(h**2 + 1e-4) - h)  # positive for all h, smooth
        exponent = known["n"] * torch.log(known["alpha"] * suction)
        return -(1 - 1 / known["n"]) * softplus(exponent, threshold=40.0)


class WaterContent(nn.Module):
    """theta(h) of some laws as a module of its own, with their weights."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, h: Tensor) -> Tensor:
        return self.laws.theta(h)


class LogConductivity(nn.Module):
    """The logarithm to base 10 of K(h)."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, h: Tensor) -> Tensor:
        return self.laws.log_K(h) / LN10
