"""Laws of freezing soil as torch modules: a hand-made one, networks, and both together.

Heat is over the heat capacity of a usual soil, in K, conductivity over the same, in m2/day, for
temperatures T in deg C of shape (points, n) and depths z in m of shape (points, 1).  The heat of
the soil is ``sensible + w latent`` with the winter's water w, which is not the laws' to know:
``latent`` grows with T from minus the latent heat of a usual soil to zero.

All weights begin at, or add nothing to, what a textbook has for a moist soil.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

import femnn

DTYPE = torch.float64
USUAL = 0.043  # m2/day: 5e-7 m2/s
LATENT = 28.0  # K: a fifth of the volume is water that freezes, in soil of 2.4 MJ/(m3 K)
MELTING, WIDTH = -0.2, 0.5  # deg C, of its freezing
LEAST = 0.03  # K, a width of which nothing is narrower: Newton's method has no hold on a jump
KNOTS = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 1.7, 2.25)  # m
HIDDEN_K = 10  # in each of two layers of the networks of T and z
HIDDEN_Z = 6  # in the layer of the networks of z


def zeros(n: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(n, dtype=DTYPE))


class Laws(nn.Module):
    """The laws of a soil.

    Attributes
    ----------
    freezes : bool
        Whether there is a latent part.
    """

    freezes = True

    def sensible(self, T: Tensor, z: Tensor) -> Tensor:
        """The part of the heat that has nothing to do with freezing."""
        return T

    def latent(self, T: Tensor, z: Tensor) -> Tensor:
        """The latent heat of the usual water, from minus all of it to zero."""
        raise NotImplementedError

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError


class ByDepth(Laws):
    """The conductivity is linear in depth between values at knots; nothing freezes.

    Parameters
    ----------
    knots
        Depths in m; one for a conductivity that is the same everywhere.
    """

    freezes = False

    def __init__(self, knots: tuple[float, ...] = KNOTS):
        super().__init__()
        self.log_k = zeros(len(knots))
        self.register_buffer("knots", torch.tensor(knots, dtype=DTYPE))

    def latent(self, T: Tensor, z: Tensor) -> Tensor:
        return torch.zeros_like(T)

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        return USUAL * torch.exp(self._between_knots(z)) + 0 * T

    def _between_knots(self, z: Tensor) -> Tensor:
        if len(self.knots) == 1:
            return self.log_k + 0 * z
        left = torch.bucketize(z.detach().clone(), self.knots) - 1
        left = torch.clamp(left, 0, len(self.knots) - 2)
        share = (z - self.knots[left]) / (self.knots[left + 1] - self.knots[left])
        return self.log_k[left] * (1 - share) + self.log_k[left + 1] * share


class HandLaws(ByDepth):
    """The same with a Gaussian peak of latent heat and another conductivity when frozen.

    The four numbers of ``freezing`` are the logarithms of latent heat and width over the usual
    ones, how far the peak is from the usual one in widths, and the logarithm of the ratio of
    conductivities.
    """

    freezes = True

    def __init__(self):
        super().__init__()
        self.freezing = zeros(4)

    def latent(self, T: Tensor, z: Tensor) -> Tensor:
        log_latent, log_width, shift, _ = self._freezing(z)
        width = LEAST + WIDTH * torch.exp(log_width)
        rise = torch.erf((T - MELTING - WIDTH * shift) / width) - 1
        return LATENT * torch.exp(log_latent) * 0.5 * rise

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        frozen = torch.sigmoid(-(T + 0.3) / 0.2)
        ratio = torch.exp(self._freezing(z)[3])
        return super().conductivity(T, z) * (1 + frozen * (ratio - 1))

    def _freezing(self, z: Tensor) -> Tensor:
        """The four numbers, each of a shape that broadcasts with (points, 1)."""
        return self.freezing


class NetworkLaws(Laws):
    """H(T, z) rises with T and k(T, z) is positive, for all weights; otherwise they are free.

    The latent part is a sum of ``steps`` rising tanh functions of T, whose heights a network of
    depth gives, as it does the heat capacity of the rest; k is a network of T, tanh(T / 0.5) and z.

    Parameters
    ----------
    seed
        Of the hidden weights.
    steps
        How many.
    """

    def __init__(self, seed: int, steps: int = 12):
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1.5, 0.1, steps, dtype=DTYPE))
        self.moved, self.steeper = zeros(steps), zeros(steps)
        self.heights = network_of_depth(steps + 1, seed)
        self.log_k = network_of_both(seed + 1)

    def sensible(self, T: Tensor, z: Tensor) -> Tensor:
        return torch.exp(self.heights(z)[:, -1:]) * T

    def latent(self, T: Tensor, z: Tensor) -> Tensor:
        heights = torch.exp(self.heights(z)[:, :-1, None]) / len(self.centres)
        widths = LEAST + torch.exp(-2 - self.steeper)
        rises = torch.tanh((T[..., None] - self.centres - self.moved) / widths) - 1
        return 0.5 * LATENT * (rises @ heights)[..., 0]

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        return USUAL * torch.exp(self.log_k(inputs_of(T, z)))


class HybridLaws(HandLaws):
    """The hand-made laws, whose numbers networks let vary: with depth, and k with T and depth.

    Parameters
    ----------
    seed
        Of the hidden weights.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.of_depth = network_of_depth(5, seed)
        self.of_both = network_of_both(seed + 1)

    def sensible(self, T: Tensor, z: Tensor) -> Tensor:
        return torch.exp(self.of_depth(z)[:, 4:]) * T

    def conductivity(self, T: Tensor, z: Tensor) -> Tensor:
        return super().conductivity(T, z) * torch.exp(self.of_both(inputs_of(T, z)))

    def _freezing(self, z: Tensor) -> Tensor:
        varied = self.freezing + self.of_depth(z)[:, :4]
        return varied.t()[..., None]


class HeatStep(nn.Module):
    """What a step needs: changes of sensible and latent heat, and k, from (T, T_old, z)."""

    def __init__(self, laws: Laws):
        super().__init__()
        self.laws = laws

    def forward(self, x: Tensor) -> Tensor:
        T, z = x[:, :2], x[:, 2:]
        parts = [part(T, z) for part in (self.laws.sensible, self.laws.latent)]
        changes = [part[:, :1] - part[:, 1:] for part in parts]
        return torch.cat([*changes, self.laws.conductivity(T[:, :1], z)], 1)


class Water(nn.Module):
    """The winter's water at nodes, exp(log w) of the winter that a node's column is of.

    Parameters
    ----------
    winter
        Of each node.
    """

    def __init__(self, winter: np.ndarray):
        super().__init__()
        self.register_buffer("winter", torch.from_numpy(winter))

    def forward(self, log_w: Tensor) -> Tensor:
        return torch.exp(log_w)[self.winter]


class Linearised(nn.Module):
    """A network that is linear in its weights, around those that it has now.

    Draws of weights are draws of laws only where the laws are linear in them.

    Parameters
    ----------
    net
        The network.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.weights = copy.deepcopy(net)
        self.around = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        known = dict(self.around.named_parameters())
        drawn = dict(self.weights.named_parameters())
        change = {name: drawn[name] - known[name] for name in known}

        def call(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(self.around, weights, (x,))

        return sum(jvp(call, (known,), (change,)))


def linearised(laws: Laws) -> Laws:
    """The same laws, with all their networks linear in the weights, which are in the same order."""
    result = copy.deepcopy(laws)
    for name, part in laws.named_children():
        setattr(result, name, Linearised(part))
    return result


def network_of_depth(n: int, seed: int) -> femnn.MLP:
    """Functions of depth that begin at zero."""
    return without_output(femnn.MLP(1, HIDDEN_Z, n, input_range=(0.0, 2.3), seed=seed))


def network_of_both(seed: int) -> femnn.MLP:
    """A function of what :func:`inputs_of` gives, which begins at zero."""
    ranges = [(-15.0, 25.0), (-1.0, 1.0), (0.0, 2.3)]
    return without_output(femnn.MLP(3, HIDDEN_K, HIDDEN_K, 1, input_range=ranges, seed=seed))


def inputs_of(T: Tensor, z: Tensor) -> Tensor:
    """Temperature, the same near freezing, and depth."""
    return torch.cat([T, torch.tanh(T / WIDTH), z], 1)


def without_output(net: femnn.MLP) -> femnn.MLP:
    """The network with its last layer at zero."""
    *_, weight, bias = net.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
    return net
