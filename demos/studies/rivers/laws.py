"""Laws of flow in a river, and of the water that reaches it between gauges."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad

import femnn

SECTION = 100.0  # m2, of the flow; where logarithms are zero
DRAINED = 4000.0  # km2
RANGE = -4.0, 2.5  # of the logarithm of velocity in m/s


class FlowLaw(nn.Module):
    """Flow and celerity of ``(section in m2, area drained in km2, slope of the bed)``.

    The flow is the section times the mean velocity u, and the celerity its derivative.  Subclasses
    give the logarithm of u.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The flow in m3/s and the celerity in m/s, shape ``(n, 2)``."""
        section, site = x[:, 0].clamp(min=1e-2), x[:, 1:]

        def total(z: Tensor) -> tuple[Tensor, Tensor]:
            u = self.velocity(z, site)
            return u.sum(), u

        slope, u = grad(total, has_aux=True)(torch.log(section / SECTION))
        return torch.stack([section * u, u + slope], 1)

    def velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        """In m/s, of what :meth:`log_velocity` takes."""
        return torch.exp(self.log_velocity(log_section, site).clamp(*RANGE))

    def log_velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        """Of the logarithm of section / 100 m2, shape ``(n,)``, and area and slope, ``(n, 2)``."""
        raise NotImplementedError

    @torch.no_grad()
    def section(self, flow: np.ndarray, area: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """The section that has a flow, by bisection of its logarithm; all of shape ``(n,)``."""
        wanted, site = torch.tensor(flow), torch.tensor(np.column_stack([area, slope]))
        low, high = torch.full_like(wanted, -7.0), torch.full_like(wanted, 7.0)
        for _ in range(50):
            middle = (low + high) / 2
            is_less = SECTION * torch.exp(middle) * self.velocity(middle, site) < wanted
            low, high = torch.where(is_less, middle, low), torch.where(is_less, high, middle)
        return SECTION * torch.exp(high).numpy()


class PowerLaw(FlowLaw):
    """u = u0 (section / 100 m2)^(1/3 + a) (area / 4000 km2)^b: celerity a power of the flow.

    Parameters
    ----------
    is_constant
        Whether u, and so the celerity, is the same for all flows and places.
    """

    def __init__(self, is_constant: bool = False):
        super().__init__()
        self.is_constant = is_constant
        self.p = nn.Parameter(torch.zeros(1 if is_constant else 3, dtype=torch.float64))

    def log_velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        if self.is_constant:
            return self.p[0] + 0 * log_section
        drained = torch.log(site[:, 0] / DRAINED)
        return self.p[0] + (1 / 3 + self.p[1]) * log_section + self.p[2] * drained


class KnotLaw(FlowLaw):
    """log u free on seven knots of log section, by smooth bumps, and a power of the area."""

    def __init__(self):
        super().__init__()
        self.register_buffer("knots", torch.linspace(-2.0, 3.0, 7, dtype=torch.float64))
        self.p = nn.Parameter(torch.zeros(len(self.knots) + 1, dtype=torch.float64))

    def log_velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        width = self.knots[1] - self.knots[0]
        bumps = torch.exp(-0.5 * ((log_section[:, None] - self.knots) / width) ** 2)
        drained = torch.log(site[:, 0] / DRAINED)
        return log_section / 3 + bumps @ self.p[:-1] + self.p[-1] * drained


class NetworkLaw(FlowLaw):
    """The power law times exp(N(log section, log area)), at first N = 0.

    Parameters
    ----------
    width
        Of the two hidden layers.
    seed
        Of the initial weights.
    """

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        self.around = PowerLaw()
        ranges = [(-3.0, 3.0), (-1.5, 1.5)]
        self.net = femnn.MLP(2, width, width, 1, input_range=ranges, seed=seed)
        with torch.no_grad():
            for parameter in [*self.net.parameters()][-2:]:
                parameter.zero_()

    def log_velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        inputs = torch.stack([log_section, torch.log(site[:, 0] / DRAINED)], 1)
        return self.around.log_velocity(log_section, site) + self.net(inputs)[:, 0]


class ManningLaw(FlowLaw):
    """Manning's law of a wide channel: u = depth^(2/3) slope^(1/2) / n, width = 1.2 area^(1/2).

    Parameters
    ----------
    n
        A module that gives the logarithm of n / 0.035 from log area and log slope, shape ``(m, 2)``
        to ``(m, 1)``; both are at most about one.
    """

    def __init__(self, n: nn.Module):
        super().__init__()
        self.n = n

    def roughness(self, site: Tensor) -> Tensor:
        """n in s/m^(1/3), at areas in km2 and slopes, shape ``(m, 2)``."""
        inputs = torch.log(site / torch.tensor([1000.0, 5e-4], dtype=torch.float64))
        return 0.035 * torch.exp(self.n(inputs)[:, 0])

    def log_velocity(self, log_section: Tensor, site: Tensor) -> Tensor:
        log_depth = log_section + np.log(SECTION) - torch.log(1.2 * site[:, 0].sqrt())
        friction = torch.log(site[:, 1].sqrt() / self.roughness(site))
        return 2 / 3 * log_depth + friction


class Runoff(nn.Module):
    """A recurrent network: what reaches the river on each day, in mm, from each area's weather.

    It may be negative: water is taken out, and gauges disagree.

    Parameters
    ----------
    inputs
        Of each area and part of the record the days of ``history`` before it and its own, shape
        ``(areas, parts, history + days, inputs)``.
    history
        Days over which the network begins to remember.
    hidden
        Numbers that it remembers.
    seed
        Of the initial weights.
    """

    def __init__(self, inputs: np.ndarray, history: int, hidden: int = 8, seed: int = 0):
        super().__init__()
        self.shape, self.history = inputs.shape[:3], history
        n = len(inputs)
        which = np.broadcast_to(np.eye(n)[:, None, None], (*self.shape, n))
        joined = np.concatenate([inputs, which], 3).reshape(
            -1, *inputs.shape[2:3], n + inputs.shape[3]
        )
        self.register_buffer("inputs", torch.tensor(joined), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.memory = nn.GRU(joined.shape[2], hidden, batch_first=True, dtype=torch.float64)
            self.out = nn.Linear(hidden, 1, dtype=torch.float64)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()

    def forward(self) -> Tensor:
        """In mm/day, shape ``(areas, parts, days)``."""
        state, _ = self.memory(self.inputs)
        return 3 * self.out(state[:, self.history :]).reshape(*self.shape[:2], -1)


class Proportional(nn.Module):
    """Water between gauges as a part of the flow that comes from above, and a constant.

    Parameters
    ----------
    above
        What comes from above in mm/day, shape ``(areas, parts, days)``.
    """

    def __init__(self, above: np.ndarray):
        super().__init__()
        self.register_buffer("above", torch.tensor(above), persistent=False)
        self.p = nn.Parameter(torch.zeros(len(above), 2, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.p[:, :1, None] * self.above + self.p[:, 1:, None]
