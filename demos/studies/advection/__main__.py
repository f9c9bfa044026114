"""Recover a missing transport term G in a diffusion equation from observations of u in time.

``python -m demos.studies.advection`` runs it; ``--help`` lists the options.

The PDE is ``u_t - 0.1 div(grad u) + G = 0`` on the unit square, u = 0 at first, u = sin(t)^2 on
the left side and no diffusive flux through the others.  The truth is ``G = div(v u)`` with the
velocity ``v = (sin(pi x) cos(pi y), -cos(pi x) sin(pi y))``; all is dimensionless.

The setting is that of S. K. Mitusch, S. W. Funke, M. Kuchta, Hybrid FEM-NN models, J. Comput. Phys.
446 (2021): 30 x 30 cells, P1, Crank-Nicolson with step 0.1 to t = 5; observations each 0.2, from
100 x 100 cells with step 0.01; a network of (u, u_x, u_y, x, y) for G, 5-30-1 with tanh and weights
from N(0, 2 / inputs); 1e-6 times the sum of squared weights as regularisation; L-BFGS.  They give
1000 iterations; the default here is 500.  Two things differ: the observations come from
Crank-Nicolson too, and the network is evaluated in the middle of a step instead of at both ends.

A second model knows more, that G is linear in u as the transport of something dilute is:
``G = a u + b u_x + c u_y``, with a network 2-30-3 of (x, y) for a, b and c.

Both models then run with another signal on the left side, ``2 sin(t/2)^2``, and with the first to
t = 50.  Errors are relative L2 errors in time and space against the finer run, at the times of
observation.  They stand next to those without G, and with the true G on the same mesh and with the
same step, which is what discretisation costs.

The first model is determined only near the states that training visits.  The other signal goes up
to twice as high: after 1000 iterations the error is 18 %, and 5 % with half that signal.  After
t = 5, 43 % of the nodes' values are above what training has seen there, half of them by 16 % or
more, and the error grows at once.  A term that is linear in u has no such limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies import common

from .model import (
    DECAY,
    END,
    FINE_STEP,
    FINER,
    OBSERVED,
    STEP,
    Transport,
    cases_and_data,
    evaluate,
    learned,
    learned_factors,
    misfit,
    networks,
    nothing,
    operator_error,
    truth,
)

SHOWN = 3.4  # time of the figure's fields
AT = round(SHOWN / OBSERVED) - 1
ERRORS = {
    "training": ("u, training", ".2%"),
    "other signal": ("other signal", ".2%"),
    "longer": ("longer", ".2%"),
    "operator": ("G, training", ".2%"),
}
TRAINING = {key: common.RUNS[key] for key in ("loss", "iterations", "seconds")}
NETWORK, LINEAR = "network", "linear in u"


def train(
    model: Transport, net: femnn.MLP, data: Sequence[Function], maxiter: int
) -> femnn.FitResult:
    """Fit the network in the model's operator to the observations."""
    weights = femnn.Weights.of(net)
    get_working_tape().clear_tape()
    continue_annotation()
    J = DECAY * weights.squared_norm() + misfit(model, data)
    Jhat = ReducedFunctional(J, Control(weights))
    pause_annotation()
    return femnn.fit(Jhat, maxiter=maxiter)


def on_grid(field: Function, cells: int) -> np.ndarray:
    """A field at the nodes of a uniform mesh, a row for each y, on every rank."""
    nodes = np.linspace(0, 1, cells + 1)
    points = np.stack(np.meshgrid(nodes, nodes), axis=-1)
    stations = femnn.Stations(field.function_space().mesh(), points.reshape(-1, 2))
    return np.array(stations(field)).reshape(points.shape[:2])


def draw(fields: dict[str, list[np.ndarray]], curves: dict[str, np.ndarray]) -> plt.Figure:
    """u and its errors for both signals; below the errors over time in the long run."""
    names = [[f"{case} {k}" for k in range(5)] for case in fields]
    panels = [*names, ["errors"] * 5]
    figure, axes = plt.subplot_mosaic(panels, figsize=(14, 9), layout="constrained")
    for row, (case, shown) in zip(names, fields.items(), strict=True):
        _draw_fields(figure, [axes[name] for name in row], shown)
        axes[row[0]].set_ylabel(f"{case}, t = {SHOWN}\ny")
    times = OBSERVED * np.arange(1, len(curves["true G"]) + 1)
    for name, values in curves.items():
        axes["errors"].semilogy(times, 100 * values, label=name)
    axes["errors"].axvspan(0, END, color="C7", alpha=0.2, zorder=0, label="training")
    axes["errors"].set(xlabel="t", ylabel="relative L2 error of u in space (%)")
    axes["errors"].legend(ncols=len(curves) + 1)
    return figure


def _draw_fields(figure: plt.Figure, panels: Sequence, shown: list[np.ndarray]) -> None:
    exact, without, network, linear = shown
    titles = ("finer run, true G", "without G", "network", "network's error", "linear's error")
    drawn = (exact, without, network, network - exact, linear - exact)
    nodes = np.linspace(0, 1, len(exact))
    for k, (panel, values) in enumerate(zip(panels, drawn, strict=True)):
        size = exact.max() if k < 3 else abs(values).max()
        levels = np.linspace(0 if k < 3 else -size, size, 21)
        colours = "viridis" if k < 3 else "RdBu_r"
        image = panel.contourf(nodes, nodes, values, levels, cmap=colours, extend="both")
        panel.set(aspect="equal", title=titles[k], xlabel="x", xticks=(0, 1), yticks=(0, 1))
        panel.grid(False)
        if k >= 2:
            bar = figure.colorbar(image, ax=panel, shrink=0.8, ticks=levels[::5], format="%.2g")
            bar.set_label("u" if k == 2 else "error of u")


@dataclass
class Found:
    """What the operators have led to, by their names."""

    runs: dict[str, dict] = field(default_factory=dict)
    trainings: dict[str, dict] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)  # errors over the long run
    shown: dict[str, dict[str, Function]] = field(default_factory=dict)  # u at SHOWN, by case


def compare(
    space, step: float, nets: dict[str, femnn.MLP], cases: dict, data: dict, iterations: int
) -> Found:
    """Train the networks; the errors with them, with the true operator and with none."""
    operators = {
        "no G": nothing,
        "true G": truth,
        NETWORK: learned(partial(femnn.NeuralCoefficient, nets[NETWORK])),
        LINEAR: learned_factors(partial(femnn.NeuralCoefficient, nets[LINEAR])),
    }
    found = Found()
    for name, operator in operators.items():
        model = Transport(space.mesh(), step, operator)
        if name in nets:
            result = train(model, nets[name], data["training"], iterations)
            found.trainings[name] = common.numbers_of(result)
        found.runs[name], curves, states = evaluate(model, cases, data)
        found.runs[name]["operator"] = operator_error(operator, data["training"])
        found.curves[name] = curves["longer"]
        found.shown[name] = {case: u[AT] for case, u in states.items()}
    return found


def fields(found: Found, data: dict, cells: int) -> tuple[dict[str, list], list[Function]]:
    """At t = SHOWN: what the figure draws of each signal, and all that is written."""
    drawn, written = {}, []
    for case in ("training", "other signal"):
        kinds = {"fine": data[case][AT]} | {name: us[case] for name, us in found.shown.items()}
        drawn[case] = [on_grid(kinds[k], cells) for k in ("fine", "no G", NETWORK, LINEAR)]
        for kind, u in kinds.items():
            u.rename(f"u, {kind}, {case}")
        written += kinds.values()
    return drawn, written


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("advection", __doc__, 30, 500, 0)
    parser.add_argument("--longer", type=common.at_least(5), default=50, help="end of the long run")
    usual = round(OBSERVED / STEP)
    parser.add_argument(
        "--steps", type=common.at_least(1), default=usual, help="from one observation to the next"
    )
    chosen = parser.parse_args(argv)
    mesh = UnitSquareMesh(chosen.cells, chosen.cells)
    space, fine = FunctionSpace(mesh, "P", 1), round(FINER * chosen.cells)
    step = OBSERVED / chosen.steps
    fine_step = step * FINE_STEP / STEP
    cases, data = cases_and_data(space, fine, float(chosen.longer), step=fine_step)
    nets = dict(zip((NETWORK, LINEAR), networks(chosen.seed), strict=True))
    found = compare(space, step, nets, cases, data, chosen.iterations)
    sizes = {name: getattr(chosen, name) for name in ("cells", "steps", "longer", "seed")}
    numbers = {**sizes, "runs": found.runs, "trainings": found.trainings}
    numbers["seconds"] = watch.seconds()
    common.show("Training:", found.trainings, TRAINING)
    common.show("Relative L2 errors in time and space:", found.runs, ERRORS)
    drawn, written = fields(found, data, chosen.cells)
    saved = {name.replace(" ", "_"): net for name, net in nets.items()}
    figure = partial(draw, drawn, found.curves)
    common.write_results(chosen.output, numbers, figure, saved, written)
    return numbers


if __name__ == "__main__":
    main()
