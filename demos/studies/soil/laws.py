"""Laws of freezing soil as torch modules: networks, and hand-made ones with few parameters.

Each has ``heat(T, z, wet)`` (the heat H, over the heat capacity of a reference soil, in K) and
``conductivity(T, z)`` (over the same, in m2/day), for temperatures T in deg C of shape
(points, n), depths z in m and ``wet`` of shape (points, 1).  The latent part of H is
multiplied by the soil's water, w = exp(omega wet): omega is learned, wet is given.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

DTYPE = torch.float64
USUAL = 0.043  # m2/day, a usual diffusivity of soil


def number(value: float) -> nn.Parameter:
    """One trainable number."""
    return nn.Parameter(torch.tensor(value, dtype=DTYPE))


class Laws(nn.Module):
    """What the two kinds of laws share: the water factor."""

    def __init__(self, with_water: bool, omega: float = 0.0):
        super().__init__()
        self.omega = number(omega) if with_water else None

    def water(self, wet: Tensor) -> Tensor:
        """w, the water of the soil over that of the reference winter."""
        return 1.0 if self.omega is None else torch.exp(self.omega * wet)


class NetworkLaws(Laws):
    """H(T, z) grows with T and k(T, z) is positive, by construction; otherwise free.

    H is a sum of ``steps`` rising tanh functions of T and a linear one, with positive
    weights that a network of depth gives; k is a network of T, tanh(T / 0.5) and depth.
    """

    def __init__(self, with_water: bool, seed: int, omega: float = 0.0, steps: int = 12):
        super().__init__(with_water, omega)
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(*shape, generator=generator, dtype=DTYPE))

        self.centres = nn.Parameter(torch.linspace(-1.5, 0.1, steps, dtype=DTYPE))
        self.log_slopes = nn.Parameter(torch.full((steps,), 2.0, dtype=DTYPE))
        self.in_weight, self.in_bias = normal(8, 1, scale=1.5), normal(8, scale=1.0)
        self.out_weight = nn.Parameter(torch.zeros(steps + 1, 8, dtype=DTYPE))
        heights = torch.tensor([0.5] * steps + [1.0], dtype=DTYPE)
        self.out_bias = nn.Parameter(torch.log(torch.expm1(heights)))
        self.k1_weight, self.k1_bias = normal(12, 3, scale=0.7), normal(12, scale=0.7)
        self.k2_weight = normal(12, 12, scale=12**-0.5)
        self.k2_bias = nn.Parameter(torch.zeros(12, dtype=DTYPE))
        self.k3_weight, self.k3_bias = nn.Parameter(torch.zeros(12, 1, dtype=DTYPE)), number(-0.4)

    def heat(self, T: Tensor, z: Tensor, wet: Tensor) -> Tensor:
        layer = torch.tanh(nn.functional.linear(scaled(z), self.in_weight, self.in_bias))
        weights = softplus(nn.functional.linear(layer, self.out_weight, self.out_bias))
        rises = torch.tanh(torch.exp(self.log_slopes) * (T[..., None] - self.centres)) - 1
        latent = (rises @ weights[:, :-1, None])[..., 0]
        return weights[:, -1:] * T + self.water(wet) * latent

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        inputs = torch.cat([T / 10, torch.tanh(T / 0.5), scaled(z)], 1)
        layer = torch.tanh(nn.functional.linear(inputs, self.k1_weight, self.k1_bias))
        layer = torch.tanh(nn.functional.linear(layer, self.k2_weight, self.k2_bias))
        return USUAL * torch.exp(layer @ self.k3_weight + self.k3_bias)


class HandLaws(Laws):
    """Conductivity (by depth), a Gaussian latent-heat peak, another conductivity when frozen."""

    knots = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 1.7, 2.25)

    def __init__(self, by_depth: bool = False, freezing: bool = False, with_water: bool = False):
        super().__init__(with_water)
        self.log_k = nn.Parameter(torch.zeros(len(self.knots) if by_depth else 1, dtype=DTYPE))
        self.freezing = freezing
        if freezing:
            self.log_latent, self.log_width = number(math.log(15)), number(math.log(0.5))
            self.melting, self.log_frozen = number(-0.2), number(0.3)

    def heat(self, T: Tensor, z: Tensor, wet: Tensor) -> Tensor:
        if not self.freezing:
            return T + 0 * self.water(wet)
        rise = torch.erf((T - self.melting) / torch.exp(self.log_width)) - 1
        return T + self.water(wet) * torch.exp(self.log_latent) * 0.5 * rise

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        k = USUAL * torch.exp(self._by_depth(z)) + 0 * T
        if self.freezing:
            frozen = torch.sigmoid(-(T + 0.3) / 0.2)
            k = k * (1 + frozen * (torch.exp(self.log_frozen) - 1))
        return k

    def _by_depth(self, z: Tensor) -> Tensor:
        if len(self.log_k) == 1:
            return self.log_k + 0 * z
        knots = torch.tensor(self.knots, dtype=DTYPE)
        left = torch.clamp(torch.bucketize(z.detach().contiguous(), knots) - 1, 0, len(knots) - 2)
        part = (z - knots[left]) / (knots[left + 1] - knots[left])
        return self.log_k[left] * (1 - part) + self.log_k[left + 1] * part


class HeatStep(nn.Module):
    """The two numbers that a step needs: H(T) - H(T_old) and k(T), from (T, T_old, z, wet)."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        T, z, wet = x[:, :1], x[:, 2:3], x[:, 3:]
        heat = self.laws.heat(x[:, :2], z, wet)
        stored = heat[:, :1] - heat[:, 1:]
        return torch.cat([stored, self.laws.conductivity(T, z)], 1)


class Distance(nn.Module):
    """Squared distance of a module's weights from where they began, the same at all points."""

    def __init__(self, laws: nn.Module):
        super().__init__()
        self.laws = laws
        self.start = [p.detach().clone() for p in laws.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.laws.parameters(), self.start, strict=True)
        return sum(((p - q) ** 2).sum() for p, q in parts) + 0 * x[:, :1]


def scaled(z: Tensor) -> Tensor:
    """Depth from -1 (5 cm) to 1 (225 cm)."""
    return (z - 1.15) / 1.1
