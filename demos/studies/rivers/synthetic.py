"""A tree whose Manning's n is known: learned from discharge at three gauges, and compared."""

import numpy as np
import torch
from torch import Tensor, nn

import femnn

from .laws import ManningLaw
from .model import Rivers
from .tree import Reach, Tree

HOUR = 3600.0  # s
INTERVAL = 2  # hours between data, and in a step
NOISE = 0.02  # of the discharge


class TrueN(nn.Module):
    """log n / 0.035: more in small and steep rivers, not by powers."""

    def forward(self, x: Tensor) -> Tensor:
        area, slope = x[:, :1], x[:, 1:]
        return -0.25 * torch.tanh(area) + 0.2 * slope - 0.1 * area * slope


class ConstantN(nn.Module):
    """One n for all rivers."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.p + 0 * x[:, :1]


def seen_tree() -> Tree:
    """Seven reaches with gauges at two of their junctions and at the end."""
    reaches = [
        Reach("a", "e", 30, 250, 150, 2e-3),
        Reach("b", "e", 25, 400, 60, 1.2e-3),
        Reach("c", "f", 35, 500, 30, 8e-4),
        Reach("e", "f", 40, 700, 120, 6e-4),
        Reach("d", "g", 45, 900, 20, 5e-4),
        Reach("f", "g", 45, 1300, 100, 3e-4),
        Reach("g", "end", 60, 2400, 90, 2e-4),
    ]
    return Tree(reaches, 5000.0, ("f", "g"))


def other_tree() -> Tree:
    """Other reaches, with areas and slopes within the range of those seen; one gauge."""
    reaches = [
        Reach("a", "c", 50, 350, 130, 1.5e-3),
        Reach("b", "c", 40, 600, 50, 7e-4),
        Reach("c", "end", 70, 1100, 90, 4e-4),
    ]
    return Tree(reaches, 5000.0)


def floods(tree: Tree, parts: int, hours: int, seed: int) -> dict[str, np.ndarray]:
    """Flow at the inlets in m3/s: a constant and a flood, by the area drained."""
    random, time = np.random.default_rng(seed), np.arange(0, hours, INTERVAL)
    found = {}
    for name, node in tree.inlets.items():
        peak = random.uniform(0.05, 0.4, (parts, 1)) * tree.area[node]
        begin, length = random.uniform(4, 16, (parts, 1)), random.uniform(4, 12, (parts, 1))
        t = np.maximum(time - begin, 0) / length
        found[name] = 0.01 * tree.area[node] + peak * t * np.exp(1 - t)
    return found


def model(tree: Tree, n: nn.Module, parts: int, hours: int, seed: int) -> Rivers:
    return Rivers(tree, ManningLaw(n), floods(tree, parts, hours, seed), interval=INTERVAL * HOUR)


def learn(parts: int = 4, hours: int = 36, iterations: int = 10, seed: int = 0) -> dict:
    """Learn n(area, slope); errors of it on the reaches, and of flow on a tree not seen."""
    tree, truth = seen_tree(), TrueN()
    exact = model(tree, truth, parts, hours, seed).simulate()
    random = np.random.default_rng(seed)
    measured = exact * (1 + NOISE * random.standard_normal(exact.shape))
    known: dict[str, dict] = {}
    nets = {
        "constant": ConstantN(),
        "network": femnn.MLP(2, 6, 1, input_range=[(-2.0, 2.0)] * 2, seed=seed),
    }
    for kind, net in nets.items():
        known[kind] = _fit(tree, net, measured, parts, hours, seed, iterations)
    other = other_tree()
    unseen = model(other, truth, parts, hours, seed + 1).simulate()
    sites = torch.tensor(np.column_stack([tree.area, tree.slope]))
    wanted = ManningLaw(truth).roughness(sites).numpy()
    for found in known.values():
        n = ManningLaw(found["net"]).roughness(sites).detach().numpy()
        found["n off by"] = float(np.sqrt(np.mean((n / wanted - 1) ** 2)))
        flow = model(other, found["net"], parts, hours, seed + 1).simulate()
        found["flow elsewhere off by"] = float(
            np.sqrt(np.mean((flow - unseen) ** 2) / np.mean(unseen**2))
        )
    return known


def _fit(
    tree: Tree,
    net: nn.Module,
    measured: np.ndarray,
    parts: int,
    hours: int,
    seed: int,
    iterations: int,
) -> dict:
    """What is in the rivers at first is taken to be measured, as levels are."""
    rivers = model(tree, net, parts, hours, seed)
    std = np.moveaxis(NOISE * np.maximum(measured, 1.0), 2, 0).reshape(measured.shape[2], -1)
    data = rivers.observations(measured, 1, std=std)
    rivers.first = model(tree, TrueN(), parts, hours, seed).initial()
    Jhat = rivers.record(data, precision=1.0)
    result = femnn.fit(Jhat, "gauss-newton", maxiter=iterations, ftol=1e-4, progress=False)
    return {"net": net, "loss for each datum": result.loss / len(data), "seconds": result.seconds}
