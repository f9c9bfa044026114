"""Laws of a soil with memory: suction, conductivity, and what becomes of the state in a step.

The suction is psi(theta, s), in which s between 0 and 1 says where the soil has come from: 0 after
long wetting, 1 after long drying.  The state has a rate of its own, by that of the water content:

    ds/dt = -r(theta, 1 - s) s dtheta/dt      while the soil is wetted,
    ds/dt = -r(theta, s) (1 - s) dtheta/dt    while it dries,

so that the path counts, not how fast it is gone.  psi falls with theta and rises with s, and s
falls with theta, so that psi falls along every path: the flow stays a diffusion for all weights.
"""

import torch
from torch import Tensor, nn

import femnn

RANGE = 0.02, 0.44  # of the water content, which networks scale to -1 and 1
LOG = 3.0  # a network's output of 1 in a logarithm
SMOOTH = 1e-5  # changes of the water content in a step that are hardly remembered


class Laws(nn.Module):
    """The suction psi = -h of (theta, s), K(theta), and how fast s follows theta.

    Suctions and conductivities are of sizes of their own: without gravity a soil with c psi and
    K / c has the same flow, in cm2/min.  Subclasses give ``log_suction``, ``log_K`` and
    ``log_rate``, of columns of points.
    """

    remembers = True

    def state(self, theta: Tensor, old: Tensor, before: Tensor) -> Tensor:
        """The state after a step, exact for the rates at its start."""
        if not self.remembers:
            return before
        wetted, dried = parts(theta - old)
        rates = torch.exp(self.log_rate(torch.cat([old, old]), torch.cat([1 - before, before])))
        of_wetting, of_drying = rates.chunk(2)
        s = before * torch.exp(-of_wetting * wetted)
        return 1 - (1 - s) * torch.exp(-of_drying * dried)

    def suction(self, theta: Tensor, s: Tensor) -> Tensor:
        return torch.exp(self.log_suction(theta, s))

    def K(self, theta: Tensor) -> Tensor:
        return torch.exp(self.log_K(theta))

    def log_suction(self, theta: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError

    def log_K(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def log_rate(self, theta: Tensor, s: Tensor) -> Tensor:
        """Of drying; that of wetting is its mirror image, with 1 - s for s."""
        raise NotImplementedError


class Flow(nn.Module):
    """What flows between two points times their distance: the mean K times the rise of suction.

    Of ``(theta_a, theta_b, old_a, old_b, s_a, s_b)``, the states at the step's start.  The mean is
    Simpson's, with K at the mean water content: K is nothing in dry soil, and the suction large.
    """

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        a, b, *before = x.split(1, 1)
        theta = torch.cat([a, b])
        old, s = torch.cat(before[:2]), torch.cat(before[2:])
        at_a, at_b = self.laws.suction(theta, self.laws.state(theta, old, s)).chunk(2)
        K_a, K_middle, K_b = self.laws.K(torch.cat([a, (a + b) / 2, b])).chunk(3)
        return (K_a + 4 * K_middle + K_b) / 6 * (at_b - at_a)


class Suction(nn.Module):
    """The suction of ``(theta, s)`` as a module of its own."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        return self.laws.suction(*x.split(1, 1))


class Rate(nn.Module):
    """The rate of drying of ``(theta, s)``: one divided by the drying that is remembered."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.laws.log_rate(*x.split(1, 1)))


class Memory(nn.Module):
    """The state after a step, of ``(theta, old, s)``, the state at its start."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        return self.laws.state(*x.split(1, 1))


def parts(change: Tensor) -> tuple[Tensor, Tensor]:
    """The positive and the negative part of a change, smooth where it is zero."""
    up, down = change.clamp(min=0), (-change).clamp(min=0)
    return up**2 / (up + SMOOTH), down**2 / (down + SMOOTH)


class VanGenuchten(Laws):
    """Van Genuchten's suction and Mualem's K(theta), with a suction that drying multiplies.

    Six numbers ``p``, which begin at zero: the saturated content, n, Mualem's exponent, K, how many
    times more suction long drying brings, and the rate.
    """

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def numbers(self) -> dict[str, Tensor]:
        """The numbers of the laws; rates for a change of the water content by one."""
        p = self.p
        return {
            "saturated": 0.44 + 0.005 * torch.exp(p[0]),
            "n": 1 + 1.5 * torch.exp(p[1]),
            "l": 2 + p[2],
            "K": 0.7 * torch.exp(p[3]),
            "more": torch.exp(p[4]),
            "rate": 8 * torch.exp(p[5]),
        }

    def log_suction(self, theta: Tensor, s: Tensor) -> Tensor:
        known = self.numbers()
        m = 1 - 1 / known["n"]
        log_S = self._log_saturation(theta)
        of_wetting = torch.log(torch.expm1(-log_S / m)) / known["n"]
        return of_wetting + torch.log1p(known["more"] * s)

    def log_K(self, theta: Tensor) -> Tensor:
        known = self.numbers()
        m = 1 - 1 / known["n"]
        log_S = self._log_saturation(theta)
        # 1 - (1 - S^(1/m))^m, where S^(1/m) is far below rounding of one in dry soil
        drained = -torch.expm1(m * torch.log1p(-torch.exp(log_S / m)))
        return torch.log(known["K"]) + known["l"] * log_S + 2 * torch.log(drained)

    def log_rate(self, theta: Tensor, s: Tensor) -> Tensor:
        return torch.log(self.numbers()["rate"]) + 0 * theta

    def _log_saturation(self, theta: Tensor) -> Tensor:
        part = theta / self.numbers()["saturated"]
        return torch.log(part.clamp(1e-3, 1 - 1e-5))


class Diffusivity(Laws):
    """No memory: only D(theta) = -K dpsi/dtheta counts, the exponential of a network."""

    remembers = False

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        self.net = femnn.MLP(1, width, 1, input_range=RANGE, seed=seed)

    def suction(self, theta: Tensor, s: Tensor) -> Tensor:
        return -theta

    def log_K(self, theta: Tensor) -> Tensor:
        return LOG * self.net(theta)


class NetworkLaws(Laws):
    """Networks for all: suction falls with theta and rises with s, K rises, the rate is free.

    Parameters
    ----------
    width
        Of the one hidden layer of each.
    seed
        Of the initial weights.
    """

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        both = [RANGE, (0.0, 1.0)]
        self.of_suction = femnn.MonotoneMLP(
            2, width, 1, decreasing=[0], increasing=[1], input_range=both, seed=3 * seed
        )
        self.of_K = femnn.MonotoneMLP(1, width, 1, input_range=RANGE, seed=3 * seed + 1)
        self.of_rate = femnn.MLP(2, width, 1, input_range=both, seed=3 * seed + 2)

    def log_suction(self, theta: Tensor, s: Tensor) -> Tensor:
        return LOG * self.of_suction(torch.cat([theta, s], 1))

    def log_K(self, theta: Tensor) -> Tensor:
        return LOG * self.of_K(theta)

    def log_rate(self, theta: Tensor, s: Tensor) -> Tensor:
        return LOG * self.of_rate(torch.cat([theta, s], 1))
