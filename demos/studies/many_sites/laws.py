"""Laws of diffusivity: log D at 10 and 60 cm below a station, linear in log depth between."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import femnn

KNOTS = 0.10, 0.60  # m
USUAL = 4e-7  # m2/s
RANGE = -6.0, 6.0  # of log D / USUAL: beyond, soil is no soil


def upper_share(depth: np.ndarray) -> np.ndarray:
    """How much of log D at a depth is that at the upper knot, from 0 to 1."""
    share = np.log(depth / KNOTS[1]) / np.log(KNOTS[0] / KNOTS[1])
    return share.clip(0.0, 1.0)


def zeros(*shape: int) -> nn.Parameter:
    """Weights that begin at zero: the usual diffusivity."""
    return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))


class Law(nn.Module):
    """Diffusivity in m2/s at points, from stations' numbers, shares and water contents there.

    Subclasses give ``theta``, log D / USUAL at the two knots, for stations by their number.
    """

    def forward(self, station: Tensor, share: Tensor, water: Tensor) -> Tensor:
        theta = self.theta(station)
        log_D = share * theta[:, 0] + (1 - share) * theta[:, -1]
        return USUAL * torch.exp(log_D.clamp(*RANGE))

    def theta(self, station: Tensor) -> Tensor:
        raise NotImplementedError

    def theta_of(self, stations: Sequence[int]) -> np.ndarray:
        """``theta`` as an array, shape (stations, knots)."""
        with torch.no_grad():
            return self.theta(torch.tensor(list(stations))).numpy()


class OneForAll(Law):
    """The same at all stations: one number, or one at each knot.

    Parameters
    ----------
    knots
        1 or 2.
    """

    def __init__(self, knots: int):
        super().__init__()
        self.p = zeros(knots)

    def theta(self, station: Tensor) -> Tensor:
        return self.p.expand(len(station), -1)


class EachStation(Law):
    """Numbers of each station's own.

    Parameters
    ----------
    n
        The number of stations.
    knots
        1 or 2.
    """

    def __init__(self, n: int, knots: int):
        super().__init__()
        self.p = zeros(n, knots)

    def theta(self, station: Tensor) -> Tensor:
        return self.p[station]


class OfWater(Law):
    """Free in the mean water content at a depth: linear between values at equal distances.

    Parameters
    ----------
    driest, wettest
        Where the first and the last value stand.
    n
        The number of values.
    """

    def __init__(self, driest: float, wettest: float, n: int = 5):
        super().__init__()
        self.p = zeros(n)
        self.driest, self.step = driest, (wettest - driest) / (n - 1)

    def forward(self, station: Tensor, share: Tensor, water: Tensor) -> Tensor:
        at = ((water - self.driest) / self.step).clamp(0, len(self.p) - 1)
        hats = (1 - (at[:, None] - torch.arange(len(self.p))).abs()).clamp(min=0)
        return USUAL * torch.exp((hats @ self.p).clamp(*RANGE))


class FromLag(Law):
    """What the year's lag says in a half space of one diffusivity, D = omega z^2 / (2 lag^2).

    Parameters
    ----------
    lag
        Of all stations, in radians.
    apart
        The distance of the thermometers, in m.
    """

    def __init__(self, lag: np.ndarray, apart: float):
        super().__init__()
        omega = 2 * np.pi / (365.25 * 86400)
        D = omega * apart**2 / (2 * lag**2)
        self.register_buffer("logs", torch.from_numpy(np.log(D / USUAL))[:, None])

    def theta(self, station: Tensor) -> Tensor:
        return self.logs[station]


class ByAttributes(Law):
    """What a network of attributes says, and what it leaves over at each fitted station.

    theta = N(attributes) + rest.  The rest has a normal prior at each knot, whose size the evidence
    finds; at stations that were not fitted it is zero, or drawn.

    Parameters
    ----------
    table
        Attributes of all stations, of order one, shape (stations, attributes).
    fitted
        The stations with a rest.
    width
        Of the hidden layer; 0 for a law that is linear in the attributes.
    seed
        Of the initial weights.
    with_rest
        Whether there is a rest.
    """

    def __init__(
        self,
        table: np.ndarray,
        fitted: list[int],
        width: int = 0,
        seed: int = 0,
        with_rest: bool = True,
    ):
        super().__init__()
        n, k = table.shape
        self.mean = zeros(2)
        widths = (k, width, 2) if width else (k, 2)
        self.net = femnn.MLP(*widths, seed=seed) if k else None
        if self.net is not None:
            self._begin_at_zero()
        self.upper_rest, self.lower_rest = (
            (zeros(len(fitted)), zeros(len(fitted))) if with_rest else (None, None)
        )
        row = torch.full((n,), len(fitted))
        row[fitted] = torch.arange(len(fitted))
        self.register_buffer("row", row)
        self.register_buffer("table", torch.from_numpy(table))
        self.register_buffer("drawn", torch.zeros(n, 2, dtype=torch.float64))

    def _begin_at_zero(self) -> None:
        *_, weight, bias = self.net.parameters()
        with torch.no_grad():
            weight.zero_()
            bias.zero_()
        bias.requires_grad_(False)  # the mean is that

    def theta(self, station: Tensor) -> Tensor:
        theta = self.known(station)
        if self.upper_rest is None:
            return theta
        rest = torch.stack([self.upper_rest, self.lower_rest], 1)
        rest = torch.cat([rest, torch.zeros_like(rest[:1])])
        return theta + rest[self.row[station]] + self.drawn[station]

    def known(self, station: Tensor) -> Tensor:
        """What the attributes say, shape (stations, 2)."""
        said = self.mean.expand(len(station), -1)
        return said if self.net is None else said + self.net(self.table[station])
