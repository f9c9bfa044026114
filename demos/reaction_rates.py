"""Recover the rate R(a, b) of a reaction A + B -> C from sensors in a flow past a cylinder.

Water flows through a channel past a cylinder (mesh: ``meshes/cylinder.msh``, made by Gmsh); the
steady Navier-Stokes flow is computed first and carries the three species:

    a_t + w.grad a = div(D grad a) + f_a - R,  b likewise with f_b,  c_t + w.grad c = ... + R.

A and B enter in front of the cylinder, one above the other, with strengths that vary in time.  a
and c are measured at 94 places around and behind it, every second step, with independent noise of
1 % of the species' largest value.  The readings come from the true law (see
``reaction_model.py``), half as wide cells and half as long steps.  Elements are linear, steps
Crank-Nicolson's, cells small enough to need no stabilisation.

Three laws are fitted to the same readings: a b N(a, b) with a positive network N, which has no
reaction where a species is missing; a positive network N(a, b) alone; and K a b with one number K.
R's error is the root mean square over all nodes and steps of the run with the true law, each with
the node's area, so that all values of (a, b) count as often as they occur.  Then each law
predicts c for other sources.  The row of the true law says what the coarser model alone causes.
All have the same number of iterations at most: N(a, b) alone has not converged by then.
"""

from functools import partial

import common
import numpy as np
import torch
from common import Stations, values_at
from firedrake import *
from firedrake.adjoint import *
from reaction_figure import draw, pieces
from reaction_model import (
    DURATION,
    EVERY,
    MESH,
    NOISE,
    TEST,
    TRAINING,
    Reactor,
    flow,
    stations,
    truth,
)

import femnn

UNIT = 10.0  # of the networks' output
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
    ranges = [(0.0, float(upper)) for upper in states.max(0)]
    given = {"output": "softplus", "input_range": ranges, "init": "normal", "seed": seed}
    return {
        "a b N(a, b)": (femnn.MLP(2, 16, 16, 1, **given), 1),
        "N(a, b)": (femnn.MLP(2, 16, 16, 1, **given), 0),
        "K a b": (OneNumber(), 1),
    }


def rate(net: torch.nn.Module, power: int):
    """A law in the model."""
    return lambda a, b: UNIT * (a * b) ** power * femnn.NeuralCoefficient(net, a, b)


def rate_at(net: torch.nn.Module, power: int, states: np.ndarray) -> np.ndarray:
    """The same at rows of a and b."""
    return UNIT * states.prod(1) ** power * values_at(net, states)


def observe(velocity: Function, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy readings by time, species (a, c) and station, and each species' standard deviation."""
    places = Stations(velocity.function_space().mesh(), stations())
    run = Reactor(velocity, 2 * steps, truth).run(TRAINING, 2 * EVERY)
    exact = np.array([[places.read(u[0]), places.read(u[2])] for u in run])
    deviation = NOISE * exact.max((0, 2))
    noise = np.random.default_rng(seed).normal(size=exact.shape)
    return exact + deviation[:, None] * noise, deviation


def predict(velocity: Function, steps: int, law, coarse=None) -> tuple[list[Function], list]:
    """c after each step with the sources of the test, and what of it flows out."""
    fine = coarse is not None
    reactor = Reactor(velocity, steps * (1 + fine), law)
    found, outflow = [], []
    for u in reactor.run(TEST, 1 + fine):
        if fine:
            on_coarse = Function(VectorFunctionSpace(coarse, "P", 1, dim=3))
            inject(u, on_coarse)
            u = on_coarse
        found.append(Function(u.function_space().sub(2).collapse()).interpolate(u[2]))
        outflow.append(float(reactor.outflow()))
    return found, outflow


def misfit(reactor: Reactor, readings: np.ndarray, deviation: np.ndarray):
    """Half the mean square difference to the readings, in units of the noise; on the tape."""
    places = Stations(reactor.u.function_space().mesh(), stations())
    J = 0.0
    for u, measured in zip(reactor.run(TRAINING, EVERY), readings, strict=True):
        for i, values, spread in zip((0, 2), measured, deviation, strict=True):
            difference = places.of(u[i]) - places.function(values)
            J += femnn.assemble(0.5 / (spread**2 * readings.size) * difference**2 * dx)
    return J


def train(velocity: Function, law, net, readings: np.ndarray, deviation: np.ndarray, chosen):
    """Fit a law's network to the readings."""
    reactor = Reactor(velocity, chosen.steps, law)
    get_working_tape().clear_tape()
    continue_annotation()
    J = misfit(reactor, readings, deviation)
    Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
    pause_annotation()
    Jhat.optimize_tape()
    return femnn.fit(Jhat, maxiter=chosen.iterations, options={"maxcor": 40})


def visited(reactor: Reactor) -> tuple[np.ndarray, np.ndarray]:
    """a and b at all nodes after all steps of the run, and the nodes' areas; on every rank."""
    space = FunctionSpace(reactor.u.function_space().mesh(), "P", 1)
    area = assemble(TestFunction(space) * dx).dat.data_ro
    rows = [np.c_[u.dat.data_ro[:, :2], area] for u in reactor.run(TRAINING)]
    together = np.concatenate(space.mesh().comm.allgather(np.concatenate(rows)))
    return together[:, :2], together[:, 2]


def weighted_difference(found: np.ndarray, exact: np.ndarray, area: np.ndarray) -> float:
    """Relative root mean square difference."""
    return float((area @ (found - exact) ** 2 / (area @ exact**2)) ** 0.5)


def difference_in_time(found: list[Function], exact: list[Function]) -> float:
    """Relative L2 difference in space and time."""
    pairs = list(zip(found, exact, strict=True))
    return (sum(errornorm(v, u) ** 2 for u, v in pairs) / sum(norm(v) ** 2 for v in exact)) ** 0.5


def true_law_row(velocity: Function, readings, deviation, exact: list, steps: int) -> dict:
    """What the coarser model does with the true law."""
    found, _ = predict(velocity, steps, truth)
    return {
        "rate_error": 0.0,
        "prediction_error": difference_in_time(found, exact),
        "loss": float(misfit(Reactor(velocity, steps, truth), readings, deviation)),
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
    readings, deviation = observe(fine_velocity, chosen.steps, chosen.seed)
    exact, outflow = predict(fine_velocity, chosen.steps, truth, mesh)
    states, area = visited(Reactor(velocity, chosen.steps, truth))
    runs = {"true law": true_law_row(velocity, readings, deviation, exact, chosen.steps)}
    outflows, predicted, made = {"truth": outflow}, {}, laws(chosen.seed, states)
    for name, (net, power) in made.items():
        law = rate(net, power)
        result = train(velocity, law, net, readings, deviation, chosen)
        predicted[name], outflows[name] = predict(velocity, chosen.steps, law)
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
