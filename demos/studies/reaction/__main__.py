"""Recover the rate R(a, b) of a reaction A + B -> C from sensors in a flow past a cylinder.

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

from functools import partial

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies.common import Stations, values_at

from .figure import draw, pieces
from .model import (
    DURATION,
    EVERY,
    MESH,
    Reactor,
    difference_in_time,
    flow,
    misfit,
    network,
    observe,
    predict,
    rate,
    scaled,
    stations,
    truth,
    visited,
    weighted_difference,
)

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


def rate_at(net: torch.nn.Module, power: int, states: np.ndarray) -> np.ndarray:
    """A law at rows of a and b."""
    return scaled(values_at(net, states), *states.T, power)


def sensors(velocity: Function) -> Stations:
    """The places of the readings in a flow's mesh."""
    return Stations(velocity.function_space().mesh(), stations())


def train(velocity: Function, law, net, readings: np.ndarray, deviation: np.ndarray, chosen):
    """Fit a law's network to the readings."""
    reactor, places = Reactor(velocity, chosen.steps, law), sensors(velocity)
    get_working_tape().clear_tape()
    continue_annotation()
    J = misfit(reactor, places, readings, deviation)
    Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
    pause_annotation()
    Jhat.optimize_tape()
    return femnn.fit(Jhat, maxiter=chosen.iterations, options={"maxcor": 40})


def true_law_row(velocity: Function, readings, deviation, exact: list, steps: int) -> dict:
    """What the coarser model does with the true law."""
    reactor = Reactor(velocity, steps, truth)
    found, _ = predict(reactor)
    return {
        "rate_error": 0.0,
        "prediction_error": difference_in_time(found, exact),
        "loss": float(misfit(reactor, sensors(velocity), readings, deviation)),
        "iterations": 0,
        "seconds": 0.0,
    }


def main(argv: list[str] | None = None) -> dict:
    """Run the demo; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options(__doc__.splitlines()[0], "output/reaction_rates", None, 40, 0)
    parser.add_argument("--steps", type=common.at_least(EVERY), default=30, help="steps in time")
    chosen = parser.parse_args(argv)
    mesh, finer = MeshHierarchy(Mesh(str(MESH)), 1)
    velocity, fine_velocity = flow(mesh), flow(finer)
    fine = Reactor(fine_velocity, 2 * chosen.steps, truth)
    readings, deviation = observe(fine, sensors(fine_velocity), chosen.seed)
    exact, outflow = predict(fine, mesh)
    states, area = visited(Reactor(velocity, chosen.steps, truth))
    runs = {"true law": true_law_row(velocity, readings, deviation, exact, chosen.steps)}
    outflows, predicted, made = {"truth": outflow}, {}, laws(chosen.seed, states)
    for name, (net, power) in made.items():
        law = rate(partial(femnn.NeuralCoefficient, net), power)
        result = train(velocity, law, net, readings, deviation, chosen)
        predicted[name], outflows[name] = predict(Reactor(velocity, chosen.steps, law))
        errors = {
            "rate_error": weighted_difference(rate_at(net, power, states), truth(*states.T), area),
            "prediction_error": difference_in_time(predicted[name], exact),
        }
        runs[name] = {**errors, **common.numbers_of(result)}
    sizes = {"steps": chosen.steps, "seed": chosen.seed, "readings": readings.size}
    numbers = {**sizes, "largest": states.max(0).tolist(), "runs": runs}
    numbers["seconds"] = watch.seconds()
    common.show("R(a, b), relative error where the run goes; c with other sources:", runs, COLUMNS)
    last = predicted["a b N(a, b)"][-1]
    exact[-1].rename("c")
    last.rename("c predicted")
    speed = Function(last.function_space(), name="speed").interpolate(
        sqrt(inner(velocity, velocity))
    )
    shown = pieces(speed), pieces(exact[-1])
    rates = {name: partial(rate_at, *law) for name, law in made.items()}
    times = DURATION * np.arange(1, chosen.steps + 1) / chosen.steps
    common.write_results(
        chosen.output,
        numbers,
        lambda: draw(*shown, rates, runs, states, outflows, times),
        {"network": made["a b N(a, b)"][0], "network_plain": made["N(a, b)"][0]},
        [speed, exact[-1], last],
    )
    return numbers


if __name__ == "__main__":
    main()
