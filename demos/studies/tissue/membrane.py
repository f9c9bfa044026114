"""The membrane of Hodgkin and Huxley: its rates as an exact law, and networks in its place.

v is the membrane's potential in mV, m, h and n are the gates' open parts, t is in ms.  All modules
here map (v, m, h, n, source) at points, shape ``(points, 5)``, to the rates of v, m, h and n, shape
``(points, 4)``; the source, in mV/ms, is what else changes v, such as a stimulus.

A. L. Hodgkin, A. F. Huxley, A quantitative description of membrane current and its application to
conduction and excitation in nerve, J. Physiol. 117 (1952), with the potential counted as today,
positive where the membrane is excited, and the rest at -75 mV.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

REST = -75.0  # mV
SPREAD = 115.0  # mV, from the potential at rest to that of sodium
CAPACITY = 1.0  # uF/cm^2
CONDUCTANCES = {"sodium": 120.0, "potassium": 36.0, "leakage": 0.3}  # mS/cm^2
REVERSALS = {"sodium": 115.0, "potassium": -12.0, "leakage": 10.613}  # mV above the rest


class Membrane(nn.Module):
    """The law of 1952."""

    def forward(self, x: Tensor) -> Tensor:
        v, m, h, n, source = x.T
        u = v - REST
        opening, closing = gate_rates(u)
        gates = torch.stack([m, h, n])
        return torch.stack(
            [source - current(u, m, h, n) / CAPACITY, *(opening * (1 - gates) - closing * gates)],
            dim=1,
        )


def current(u: Tensor, m: Tensor, h: Tensor, n: Tensor) -> Tensor:
    """Through the membrane, outwards, in uA/cm^2; u is the potential above the rest."""
    open_parts = {"sodium": m**3 * h, "potassium": n**4, "leakage": 1.0}
    flows = [CONDUCTANCES[ion] * part * (u - REVERSALS[ion]) for ion, part in open_parts.items()]
    return sum(flows[1:], flows[0])


def gate_rates(u: Tensor) -> tuple[Tensor, Tensor]:
    """Rates at which the gates m, h and n open and close, in 1/ms, each of shape (3, points)."""
    opening = [_ratio((25 - u) / 10), 0.07 * torch.exp(-u / 20), 0.1 * _ratio((10 - u) / 10)]
    closing = [
        4 * torch.exp(-u / 18),
        1 / (torch.exp((30 - u) / 10) + 1),
        0.125 * torch.exp(-u / 80),
    ]
    return torch.stack(opening), torch.stack(closing)


def _ratio(z: Tensor) -> Tensor:
    """Gives z / (exp(z) - 1), with its limit at zero."""
    small = z.abs() < 1e-4
    away = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, 1 - z / 2 + z**2 / 12, away / torch.expm1(away))


def resting_gates() -> list[float]:
    """The gates m, h and n where the potential has long been that of the rest."""
    opening, closing = gate_rates(torch.zeros(1, dtype=torch.float64))
    return (opening / (opening + closing))[:, 0].tolist()


class SkipNetwork(nn.Module):
    """Three layers of tanh with one slope that is trained, and a skip from the first to the last.

    Parameters
    ----------
    outputs
        Number of outputs; the inputs are v, scaled, m, h and n.
    width
        Of the three layers.
    shrink
        Factor of the initial weights, after torch's own rule.
    seed
        Of the initial weights.
    """

    def __init__(self, outputs: int, width: int = 16, shrink: float = 1e-3, seed: int = 0):
        super().__init__()
        widths = [4, width, width, width, outputs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(
                nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(widths)
            )
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(shrink)
        self.slope = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        y = torch.tanh(self.slope * first)
        for layer in self.layers[1:-1]:
            y = torch.tanh(self.slope * layer(y))
        return self.layers[-1](y + first)


class LearnedMembrane(nn.Module):
    """A network for the current and one for the gates' rates.

    Parameters
    ----------
    width, shrink, seed
        See :class:`SkipNetwork`.
    """

    def __init__(self, width: int = 16, shrink: float = 1e-3, seed: int = 0):
        super().__init__()
        self.current = SkipNetwork(1, width, shrink, seed)
        self.gates = SkipNetwork(3, width, shrink, seed + 1)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.cat([(x[:, :1] - REST) / SPREAD, x[:, 1:4]], dim=1)
        current = REST + SPREAD * self.current(state)
        return torch.cat([x[:, 4:] - current, self.gates(state)], dim=1)


class SideBySide(nn.Module):
    """A membrane for several runs at once, whose fields are vectors with an entry for each run.

    Maps (v of all runs, then m, h, n of each run, the sources of all runs), shape
    ``(points, 5 runs)``, to the rates in the same order, shape ``(points, 4 runs)``.

    Parameters
    ----------
    membrane
        The module of one run.
    runs
        Number of runs.
    """

    def __init__(self, membrane: nn.Module, runs: int):
        super().__init__()
        self.membrane, self.runs = membrane, runs

    def forward(self, x: Tensor) -> Tensor:
        v, gates, source = x.split([self.runs, 3 * self.runs, self.runs], dim=1)
        gates = gates.reshape(-1, self.runs, 3)
        rows = torch.cat([v[:, :, None], gates, source[:, :, None]], dim=2)
        rates = self.membrane(rows.reshape(-1, 5)).reshape(-1, self.runs, 4)
        return torch.cat([rates[:, :, 0], rates[:, :, 1:].flatten(1)], dim=1)
