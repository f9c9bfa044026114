"""The 1-D heat equation with unknown k(x): femnn, the paper's own method and a PINN.

For k = 2 x + 1 (``heat``) and, in ``heat_discontinuous``, for a k with two jumps.
"""

import sys
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch

import femnn
from benchmarks.published import framework, pinn
from benchmarks.published.heat_model import TRUTHS, Heat, midpoints, network
from benchmarks.published.methods import by_femnn, side_by_side
from benchmarks.published.training import Budget, Timer

NAME = "heat"
TITLE = "The heat equation, k = 2 x + 1"
HYBRID = "femnn"
EQUAL, WEIGHTED = (1.0, 1.0, 1.0, 1.0), (1.0, 10.0, 1e2, 1e3)
COARSE = {"cells": 40, "step": 0.005, "data_cells": 400, "data_step": 5e-4}
CURVE = (np.arange(200) + 0.5) / 200


@dataclass(frozen=True)
class Settings:
    """What a run takes.

    Attributes
    ----------
    truth
        ``"smooth"`` or ``"discontinuous"``.
    cells, step, data_cells, data_step, observed_every
        Of the model, the data, and the time between observations.
    seeds
        Of femnn's trainings.
    iterations, seconds, newton_evaluations, newton_seconds
        Of each: L-BFGS-B, then truncated Newton.
    iterations_both
        L-BFGS-B iterations of the side-by-side run with the paper's own method.
    seed_both
        Seed of that run's weights.
    pinn_seeds
        Of each PINN.
    pinn_weights
        The loss's weights of the equation, boundary, initial state and data, by variant.
    pinn_iterations, pinn_seconds
        L-BFGS iterations of a PINN for each variant, and its time.
    """

    truth: str
    seeds: tuple[int, ...]
    iterations: int
    iterations_both: int
    pinn_seeds: tuple[int, ...]
    pinn_weights: tuple[tuple[float, ...], ...]
    pinn_iterations: tuple[int, ...]
    seconds: float | None = None
    newton_evaluations: int = 0
    newton_seconds: float | None = None
    pinn_seconds: float | None = None
    seed_both: int = 1
    cells: int = 240
    step: float = 0.0025
    data_cells: int = 4096
    data_step: float = 1e-4
    observed_every: float = 0.02

    def model(self) -> Heat:
        """The model with its data."""
        return Heat(
            TRUTHS[self.truth],
            self.cells,
            self.step,
            self.data_cells,
            self.data_step,
            self.observed_every,
        )

    def budget(self) -> Budget:
        """Of femnn's trainings."""
        return Budget(
            self.iterations,
            seconds=_limit(self.seconds),
            newton_evaluations=self.newton_evaluations,
            newton_seconds=_limit(self.newton_seconds),
        )


SETTINGS = {
    "paper": Settings(
        truth="smooth",
        seeds=(1, 2, 3, 4),
        iterations=100,
        iterations_both=100,
        pinn_seeds=(1, 2, 3, 4, 5),
        pinn_weights=(EQUAL, WEIGHTED),
        pinn_iterations=(100_000, 10_000),
    ),
    "short": Settings(
        truth="smooth",
        seeds=(1, 2, 3, 4, 5),
        iterations=100,
        iterations_both=100,
        pinn_seeds=(1, 2, 3, 4, 5),
        pinn_weights=(EQUAL, WEIGHTED),
        pinn_iterations=(100_000, 10_000),
        pinn_seconds=120.0,
    ),
    "reduced": Settings(
        truth="smooth",
        seeds=(1,),
        iterations=25,
        iterations_both=2,
        pinn_seeds=(1,),
        pinn_weights=(WEIGHTED,),
        pinn_iterations=(40,),
        **COARSE,
    ),
}


def _limit(seconds: float | None) -> float:
    return np.inf if seconds is None else seconds


def run(settings: Settings) -> dict:
    """Femnn and PINNs for each seed, and femnn beside the paper's own method for one."""
    problem = settings.model()
    runs = {HYBRID: [train_hybrid(problem, seed, settings) for seed in settings.seeds]}
    net = network(settings.seed_both)
    budget = Budget(settings.iterations_both)
    both = side_by_side(problem.model, net, problem.mesh, problem.errors, budget)
    data = pinn.Observations(
        problem.nodes,
        problem.times[:: problem.observed_each],
        problem.data[:: problem.observed_each],
    )
    variants = zip(settings.pinn_weights, settings.pinn_iterations, strict=True)
    for weights, iterations in variants:
        runs[pinn_name(weights)] = [
            train_pinn(problem, data, seed, weights, iterations, settings)
            for seed in settings.pinn_seeds
        ]
    return {"runs": runs, "both": both}


def pinn_name(weights: tuple[float, ...]) -> str:
    """What a variant is called."""
    return f"PINN, weights {', '.join(f'{w:g}' for w in weights)}"


def train_hybrid(problem: Heat, seed: int, settings: Settings) -> dict:
    """One training of femnn, with its errors and k on a grid."""
    net = network(seed)
    row = by_femnn(problem.model, net, problem.mesh, problem.errors, settings.budget())
    return {"seed": seed, "k": femnn.evaluate(net, CURVE).tolist(), **row}


def train_pinn(problem: Heat, data, seed: int, weights, iterations: int, settings) -> dict:
    """One training of a PINN, with its errors and k on a grid."""
    timer = Timer()
    net, trained = pinn.train(
        data,
        cells=settings.cells,
        steps=problem.steps,
        mixed=settings.truth == "discontinuous",
        weights=weights,
        seed=seed,
        iterations=iterations,
        seconds=_limit(settings.pinn_seconds),
    )
    setup = timer.seconds() - trained["seconds"]
    k, u = pinn.values(net, midpoints(), problem.nodes, problem.times[1:])
    curve, _ = pinn.values(net, CURVE, problem.nodes, problem.times[1:])
    return {"seed": seed, "k": curve.tolist(), **problem.errors_of(k, u), **trained, "setup": setup}


def figure(results: dict) -> plt.Figure:
    """The recovered coefficients of all seeds, and error over time."""
    drawn, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    truth = TRUTHS[results["settings"]["truth"]](CURVE)
    k_axis, *error_axes = axes
    for (name, rows), colour in zip(results["runs"].items(), ("C0", "C1", "C2"), strict=False):
        for row in rows:
            k_axis.plot(CURVE, row["k"], colour, alpha=0.6, lw=1)
        for axis, error in zip(error_axes, ("k_error", "u_error"), strict=True):
            seconds, errors = ([row[key] for row in rows] for key in ("seconds", error))
            axis.semilogy(seconds, errors, colour + "o", label=name)
    k_axis.plot(CURVE, truth, "k--", lw=1.5, label="truth")
    spread = truth.max() - truth.min()
    k_axis.set(ylim=(truth.min() - 0.6 * spread, truth.max() + 0.6 * spread))
    k_axis.set(xlabel="x", ylabel="k(x)", title="recovered k, a line for each seed")
    k_axis.legend()
    for axis, name in zip(error_axes, "ku", strict=True):
        axis.set(
            xlabel="processor time of the training, s", ylabel=f"relative $L^2$ error of {name}"
        )
        axis.set(title=f"error of {name}, a point for each seed", xlim=(0, None))
    error_axes[0].legend(fontsize=8)
    return drawn


def report(results: dict) -> str:
    """Hybrid against PINN, and against the paper's own method."""
    columns = ["method", "seed", *(head for head, _ in framework.COLUMNS.values())]
    body = [
        [name, str(row["seed"]), *(format(row[k], f) for k, (_, f) in framework.COLUMNS.items())]
        for name, rows in results["runs"].items()
        for row in rows
    ]
    return "\n\n".join(
        [
            DESCRIPTIONS[results["settings"]["truth"]],
            framework.settings_table(results),
            "femnn against the PINN, with data from the same fine solution (the losses of the two "
            "are not the same function):",
            framework.table(columns, body),
            summary(results["runs"]),
            limits(results["settings"]),
            f"femnn against the paper's own method, seed {results['settings']['seed_both']}:",
            framework.method_table(results["both"]),
            framework.verdict({"this problem": results["both"]})
            + " Rounding can set two trainings apart early here: where a trial step makes k "
            "negative, the model amplifies it without bound. Such a step can also end a training: "
            "its huge loss makes the line search return to where it began.",
        ]
    )


DESCRIPTIONS = {
    "smooth": "u_t = (k u_x)_x on (0, 1), u = x(1 - x) at first and zero at both ends, until t = "
    "0.1; k = 2x + 1. Data: 4096 cells, step 1e-4, by a damped diagonally implicit method of order "
    "2. The hybrid model is Crank-Nicolson; errors of u are over all its steps and nodes.",
    "discontinuous": "As before with k = 2 for 0.25 ≤ x ≤ 0.75 and 1 elsewhere; the jumps lie on "
    "edges of cells, of the data and of the model. The PINN has a network for the flux.",
}


def limits(settings: dict) -> str:
    """What ends the trainings, where that is not the paper's number of iterations."""
    text = "femnn: L-BFGS-B"
    if settings["newton_evaluations"]:
        text += ", then truncated Newton, as the paper has it"
    if settings["seconds"] is not None:
        text += f", {settings['seconds'] + settings['newton_seconds']:g} s in all"
    if settings["pinn_seconds"] is not None:
        text += (
            f". The PINNs: {settings['pinn_seconds']:g} s, long before the paper's iterations are "
            "spent; the errors are those at this time, not what a PINN reaches in the end"
        )
    return text + "."


def summary(runs: dict[str, list[dict]]) -> str:
    """Medians over the seeds, and how many times femnn's the PINN's are."""
    medians = {
        name: {key: float(np.median([row[key] for row in rows])) for key in MEDIANS}
        for name, rows in runs.items()
    }
    ours = medians[HYBRID]
    body, worse = [], []
    for name, found in medians.items():
        ratios = [f"{found[key] / ours[key]:.1f}" for key in MEDIANS]
        errors = [f"{found['k_error']:.2%}", f"{found['u_error']:.3%}", f"{found['seconds']:.1f}"]
        body.append([name, *errors, *ratios])
        worse += [f"{MEDIANS[k]} of {name}" for k in list(MEDIANS)[:2] if found[k] < ours[k]]
    header = [*MEDIANS.values(), *(f"{head}, times femnn's" for head in MEDIANS.values())]
    text = "Medians over the seeds:\n\n" + framework.table(["method", *header], body)
    if worse:
        text += f"\n\nSmaller than femnn's: {', '.join(worse)}. {WHY}"
    return text


WHY = (
    "A PINN's u is a network of its own that is fitted to the data and need not solve the equation "
    "with its k; femnn's does, and is as wrong as its k makes it."
)

MEDIANS = {"k_error": "error of k", "u_error": "error of u", "seconds": "training, s"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    framework.main(sys.modules[__name__])
