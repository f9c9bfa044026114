"""Noise: k(x, y) from u with noise in each node, with and without regularisation."""

import sys
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *

from benchmarks.published import fields, framework
from benchmarks.published.methods import OURS, OURS_LONGER, THEIRS, side_by_side
from benchmarks.published.poisson import Poisson, network
from benchmarks.published.training import Budget

NAME = "noise"
TITLE = "Noise"


@dataclass(frozen=True)
class Settings:
    """Squares along a side, iterations, factors of the penalty, seed of weights and noise."""

    n: int
    iterations: int
    penalties: tuple[float, ...] = (1e-4, 0.0)
    noise_to_signal: float = 0.1
    seed: int = 3


SETTINGS = {
    "paper": Settings(80, 10_000),
    "short": Settings(40, 40),
    "reduced": Settings(20, 120),
}


def truth(x, y):
    """The coefficient that is to be recovered."""
    return 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)


def noise(problem: Poisson, settings: Settings) -> Function:
    """Normal noise in each node, with a deviation relative to the L2 norm of u."""
    spread = settings.noise_to_signal * sqrt(assemble(problem.exact**2 * dx))
    values = Function(problem.V, name="noise")
    random = np.random.default_rng(settings.seed)
    values.dat.data_wo[:] = random.normal(0, spread, problem.V.dim())
    return values


def misfit(problem: Poisson, added: Function, penalty: float):
    """The model as a function of the method, with a penalty on the gradient of k."""

    def model(method):
        k = problem.law(method)
        u = problem.solve(method, k)
        J = method.assemble((u - problem.exact - added) ** 2 * problem.dx)
        if penalty:
            slope = method.grad(k)
            J += method.assemble(penalty * inner(slope, slope) * problem.dx)
        return J

    return model


def title(penalty: float) -> str:
    """What a case is called."""
    return f"penalty {penalty:g}" if penalty else "no penalty"


def run(settings: Settings) -> dict:
    """Train with each penalty by both methods."""
    problem = Poisson(settings.n, truth)
    added = noise(problem, settings)
    cases = {}
    for penalty in settings.penalties:
        model = misfit(problem, added, penalty)
        net = network(settings.seed)
        cases[title(penalty)] = side_by_side(
            model, net, problem.mesh, problem.errors, Budget(settings.iterations)
        )
    return {"cases": cases}


def figure(results: dict) -> plt.Figure:
    """The recovered coefficients with and without the penalty, after the longer training."""
    cases = results["cases"]
    found = {case: rows[OURS_LONGER]["weights"] for case, rows in cases.items()}
    drawn, axes = fields.square(1 + len(found))
    fields.draw(axes, truth, found)
    shown = (OURS_LONGER, THEIRS)
    fields.losses(
        axes[1, 0], {f"{n}, {case}": rows[n] for case, rows in cases.items() for n in shown}
    )
    return drawn


def report(results: dict) -> str:
    """Errors and times with and without the penalty."""
    cases = results["cases"]
    rows = {f"{case}, {name}": row for case, runs in cases.items() for name, row in runs.items()}
    with_penalty, without = (cases[title(p)] for p in results["settings"]["penalties"])
    gains = [without[n]["k_error"] / with_penalty[n]["k_error"] for n in (OURS, OURS_LONGER)]
    return "\n\n".join(
        [
            "k = 1 / (1 + x²y² + (x-1)²(y-1)²), u as before, with noise N(0, s) in each node, s a "
            "tenth of the L2 norm of u. The penalty is the integral of |grad k|², times a factor.",
            framework.settings_table(results),
            framework.method_table(rows),
            f"The penalty divides femnn's error of k by {gains[0]:.2f} at equal iterations, and by "
            f"{gains[1]:.2f} in the longer trainings (of which the one with the penalty is longer, "
            "because the network in UFL takes longer with it). Without it, long training fits the "
            "noise.",
            framework.verdict(cases),
        ]
    )


if __name__ == "__main__":
    framework.main(sys.modules[__name__])
