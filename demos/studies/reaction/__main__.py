"""Recover the rate R(a, b) of a reaction A + B -> C from sensors in a flow past a cylinder.

``python -m demos.studies.reaction`` runs it; ``--help`` lists the options.

Water flows through a channel past a cylinder (mesh: ``meshes/cylinder.msh``, made by Gmsh); the
steady Navier-Stokes flow is computed first and carries the three species:

    a_t + w.grad a = div(D grad a) + f_a - R,  b likewise with f_b,  c_t + w.grad c = ... + R.

A and B enter in front of the cylinder, one above the other, with strengths that vary in time.  a
and c are measured at 94 places around and behind it, every second step, with independent noise of
1 % of the species' largest value.  The readings come from the true law (see
``model.py``), half as wide cells and half as long steps.  Elements are linear, steps
Crank-Nicolson's, cells small enough to need no stabilisation.

Three laws are fitted to the same readings: a b N(a, b) with a positive network N, which has no
reaction where a species is missing; a positive network N(a, b) alone; and K a b with one number K.
R's error is the root mean square over all nodes and steps of the run with the true law, each with
the node's area, so that all values of (a, b) count as often as they occur.  Then each law
predicts c for other sources.  The row of the true law says what the coarser model alone causes.
All have the same number of iterations at most: N(a, b) alone has not converged by then.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies import common

from .experiment import Experiment, rate_at
from .figure import draw, pieces
from .model import DURATION, EVERY, network, rate, truth

COLUMNS = {
    "rate_error": ("R error", ".2%"),
    "prediction_error": ("c, other sources", ".2%"),
    "loss": ("loss", ".3f"),
    "iterations": ("iterations", "d"),
    "seconds": ("seconds", ".1f"),
}


class OneNumber(torch.nn.Module):
    """A positive constant in a network's place."""

    def __init__(self):
        super().__init__()
        self.logarithm = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(self.logarithm).expand(len(x), 1)


def laws(seed: int, states: np.ndarray) -> dict[str, tuple]:
    """The network of each law, and the power of a b that stands before it."""
    return {
        "a b N(a, b)": (network(seed, states.max(0)), 1),
        "N(a, b)": (network(seed, states.max(0)), 0),
        "K a b": (OneNumber(), 1),
    }


def train(experiment: Experiment, law: Callable, net, iterations: int) -> femnn.FitResult:
    """Fit a law's network to the readings."""
    get_working_tape().clear_tape()
    continue_annotation()
    J = experiment.misfit(experiment.reactor(law))
    Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
    pause_annotation()
    Jhat.optimize_tape()
    return femnn.fit(Jhat, maxiter=iterations, options={"maxcor": 40})


def true_law_row(experiment: Experiment) -> dict:
    """What the coarser model does with the true law."""
    found, _ = experiment.predict(truth)
    return {
        "rate_error": 0.0,
        "prediction_error": experiment.prediction_error(found),
        "loss": float(experiment.misfit(experiment.reactor(truth))),
        "iterations": 0,
        "seconds": 0.0,
    }


def compare(experiment: Experiment, made: dict[str, tuple], iterations: int) -> tuple[dict, ...]:
    """Train each law: its errors and cost, c that it predicts at the end, the outflow of C."""
    runs, last, outflows = {"true law": true_law_row(experiment)}, {}, {"truth": experiment.outflow}
    for name, (net, power) in made.items():
        law = rate(partial(femnn.NeuralCoefficient, net), power)
        result = train(experiment, law, net, iterations)
        predicted, outflows[name] = experiment.predict(law)
        last[name] = predicted[-1]
        errors = {
            "rate_error": experiment.rate_error(net, power),
            "prediction_error": experiment.prediction_error(predicted),
        }
        runs[name] = {**errors, **common.numbers_of(result)}
    return runs, last, outflows


def fields(experiment: Experiment, predicted: Function) -> list[Function]:
    """The speed of the flow; c at the end with other sources, the truth and a prediction."""
    w, exact = experiment.velocity, experiment.exact[-1]
    speed = Function(exact.function_space(), name="speed").interpolate(sqrt(inner(w, w)))
    exact.rename("c")
    predicted.rename("c predicted")
    return [speed, exact, predicted]


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("reaction", __doc__, None, 40, 0)
    parser.add_argument("--steps", type=common.at_least(EVERY), default=30, help="steps in time")
    parser.add_argument("--duration", type=float, default=DURATION, help="of the run")
    chosen = parser.parse_args(argv)
    experiment = Experiment(chosen.steps, chosen.seed, chosen.duration)
    states, made = experiment.states, laws(chosen.seed, experiment.states)
    runs, last, outflows = compare(experiment, made, chosen.iterations)
    sizes = {"steps": chosen.steps, "seed": chosen.seed, "readings": experiment.readings.size}
    numbers = {**sizes, "largest": states.max(0).tolist(), "runs": runs}
    numbers["seconds"] = watch.seconds()
    common.show("R(a, b), relative error where the run goes; c with other sources:", runs, COLUMNS)
    written = fields(experiment, last["a b N(a, b)"])
    speed, exact = (pieces(field) for field in written[:2])
    rates = {name: partial(rate_at, *law) for name, law in made.items()}
    times = experiment.duration * np.arange(1, chosen.steps + 1) / chosen.steps
    common.write_results(
        chosen.output,
        numbers,
        lambda: draw(speed, exact, rates, runs, states, outflows, times),
        {"network": made["a b N(a, b)"][0], "network_plain": made["N(a, b)"][0]},
        written,
    )
    return numbers


if __name__ == "__main__":
    main()
