"""Laws of eddy diffusivity: K in m2/s of depth (m), log10 of N2 (1/s2) and winds (m/s)."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

import femnn

RANGE = -25.0, 2.0  # of log K: beyond, water mixes not at all or in a second
LEAST = -8.0  # a log10 N2 below is as good as none


class Law(nn.Module):
    """A law of ``(depth, log10 N2, wind, further winds ...)``.

    Subclasses give log K as a function of ``(z, log N2, winds)``, natural logarithms.

    Attributes
    ----------
    winds : tuple of int
        Over how many days each wind that the law takes is a mean.
    """

    winds: tuple[int, ...] = (1,)

    def forward(self, x: Tensor) -> Tensor:
        log_K = self.log_K(x[:, :1], np.log(10) * x[:, 1:2], x[:, 2:])
        return torch.exp(log_K.clamp(*RANGE))

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        raise NotImplementedError


class HandLaw(Law):
    """A law with a few numbers ``p``, which are its weights; each begins at zero."""

    n: int

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(self.n, dtype=torch.float64))


class ConstantK(HandLaw):
    """K is the same everywhere."""

    n = 1

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        return np.log(5e-5) + self.p[0] + 0 * z


class PowerOfN2(HandLaw):
    """K = a N2^-b."""

    n = 2

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        return np.log(1e-5) + self.p[0] - (0.5 + self.p[1]) * (log_N2 - np.log(1e-4))


class WindLaw(HandLaw):
    """K = K0 + a wind^m exp(-z / L) / (1 + b N2)."""

    n = 5

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        K0, a, m, L, b = self.p
        wind = torch.log((winds[:, :1] / 5).clamp(min=1e-3))
        stirred = np.log(300) + a + (2 + m) * wind - z / (10 * torch.exp(L))
        damped = stirred - nn.functional.softplus(b + np.log(2e10) + log_N2)
        return torch.logaddexp(np.log(5e-6) + K0 + 0 * z, damped)


class WeekLaw(WindLaw):
    """The same with the mean wind of a week."""

    winds = (7,)


class NetworkLaw(Law):
    """log K by a network of (z, log N2, winds); zero weights are a constant K.

    Parameters
    ----------
    widths
        Of the hidden layers.
    winds
        Over how many days each wind is a mean.
    around
        A law that the network corrects; the constant 1e-5 without.
    seed
        Of the initial weights.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 16),
        winds: tuple[int, ...] = (1,),
        around: Law | None = None,
        seed: int = 0,
        depth: float = 45.0,
    ):
        super().__init__()
        self.winds = winds
        ranges = [(0.0, depth), (LEAST, -3.0), *((0.0, 12.0) for _ in winds)]
        self.net = femnn.MLP(2 + len(winds), *widths, 1, input_range=ranges, seed=seed)
        self.around = around
        if around is not None:
            around.requires_grad_(False)
            with torch.no_grad():
                [*self.net.parameters()][-1].zero_()
                [*self.net.parameters()][-2].zero_()

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        correction = 3 * self.net(torch.cat([z, log_N2 / np.log(10), winds], 1))
        base = np.log(1e-5) if self.around is None else self.around.log_K(z, log_N2, winds)
        return base + correction


class DrawnLaw(Law):
    """A network's law with log K changed as it is to first order by a change of the weights.

    Draws of weights are draws of laws only where the law is linear in them, which it is not far
    from the best ones.

    Parameters
    ----------
    law
        The law at the best weights.
    """

    def __init__(self, law: NetworkLaw):
        super().__init__()
        self.law, self.winds = law, law.winds
        self.change: dict[str, Tensor] = {}

    def take(self, change: np.ndarray) -> None:
        """Change the law as this change of its weights would, shape ``(n_weights,)``."""
        parameters = dict(self.law.net.named_parameters())
        parts = torch.from_numpy(change).split([p.numel() for p in parameters.values()])
        pairs = zip(parameters.items(), parts, strict=True)
        self.change = {name: part.reshape(p.shape) for (name, p), part in pairs}

    def log_K(self, z: Tensor, log_N2: Tensor, winds: Tensor) -> Tensor:
        best = self.law.log_K(z, log_N2, winds)
        if not self.change:
            return best
        inputs = torch.cat([z, log_N2 / np.log(10), winds], 1)
        known = {name: p.detach() for name, p in self.law.net.named_parameters()}

        def call(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(self.law.net, weights, (inputs,))

        return best + 3 * jvp(call, (known,), (self.change,))[1]
