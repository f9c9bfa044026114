"""Recover the law kappa(u) in a nonlinear Poisson equation from observations of u.

``python -m demos.studies.nonlinear_poisson`` runs it; ``--help`` lists the options.

The PDE is ``-div(kappa(u) grad u) = f`` on the unit square with ``f = 2.6``, ``u = 0`` on the left
and lower sides and no flux through the others.  The true law has a bump and a step, as the
conductivity of a layered, partly saturated soil may have; all is dimensionless.

u is observed at stations (2500 random points).  The observations come from the true law, cubic
elements and twice as many cells along each side as the model, which has quadratic elements.  They
are used as they are, and with independent noise N(0, s) at each station, s = 1 % of max u.

A network of one input stands for kappa.  The misfit J is half the mean squared difference at the
stations.  With noise, training ends by the discrepancy principle: when J is within one standard
deviation of ``s^2 / 2``, which is the expected misfit of the true law.  Nothing but the stations'
data and s enters the training.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies import common
from demos.studies.common import relative_difference

SOURCE = 2.6
NOISE = 0.01


def truth(u):
    """The law that is to be recovered, for UFL and numpy."""
    power = np.exp if isinstance(u, np.ndarray) else exp
    return 0.25 + 0.5 * power(-(((u - 0.25) / 0.13) ** 2)) + 0.75 / (1 + power(-14 * (u - 0.65)))


def residual(u: Function, kappa) -> tuple:
    """The PDE's residual form and boundary condition."""
    V = u.function_space()
    v = TestFunction(V)
    form = kappa * inner(grad(u), grad(v)) * dx - Constant(SOURCE) * v * dx
    return form, DirichletBC(V, 0, (1, 3))


def observe(cells: int, stations: np.ndarray) -> np.ndarray:
    """The true u at the stations, in their order, on every rank."""
    mesh = UnitSquareMesh(cells, cells)
    u = Function(FunctionSpace(mesh, "P", 3))
    form, bc = residual(u, truth(u))
    solve(form == 0, u, bcs=bc)
    return np.array(femnn.Stations(mesh, stations)(u))


def recover(values: np.ndarray, spread: float, stations, u: Function, chosen) -> tuple:
    """Train a network for kappa(u); u becomes the model's solution."""
    net = femnn.MLP(
        *(1, 20, 20, 1),
        output="softplus",
        input_range=(values.min(), values.max()),
        init="normal",
        seed=chosen.seed,
    )
    kappa = femnn.NeuralCoefficient(net, u)
    data = femnn.Observations(stations, values, std=len(values) ** 0.5)  # J is a mean
    form, bc = residual(u, kappa)
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(form == 0, u, bcs=bc)
    Jhat = ReducedFunctional(data.misfit(u), Control(kappa.weights))
    pause_annotation()
    target = noise_misfit(spread, len(values)) if spread else None
    result = femnn.fit(Jhat, maxiter=chosen.iterations, target=target, options={"maxcor": 60})
    femnn.solve(form == 0, u, bcs=bc)
    return net, result


def noise_misfit(spread: float, stations: int) -> float:
    """The expected misfit of the noise alone, and one standard deviation more."""
    return 0.5 * spread**2 * (1 + (2 / stations) ** 0.5)


def law_on_nodes(net, u: Function, name: str) -> Function:
    """kappa(u) in the nodes of u's space."""
    field = Function(u.function_space(), name=name)
    field.dat.data[:] = femnn.evaluate(net, u.dat.data_ro)
    return field


def draw(exact: np.ndarray, nets: dict, runs: dict[str, dict]) -> plt.Figure:
    """The law and the data's range on the left, the misfits on the right."""
    figure, (law, misfit) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    lower, upper = exact.min(), exact.max()
    u = np.linspace(lower - 0.1 * (upper - lower), upper + 0.1 * (upper - lower), 400)
    law.plot(u, truth(u), "k", linewidth=3, alpha=0.5, label="truth")
    for (name, net), style in zip(nets.items(), ("C0", "C1--"), strict=True):
        error = 100 * runs[name]["kappa_error"]
        label = f"learned, {name}: error {error:.2g} %"
        law.plot(u, femnn.evaluate(net, u), style, label=label)
    law.axvspan(lower, upper, color="C2", alpha=0.12, zorder=0, label="range of u in the data")
    law.set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ (dimensionless)", ylim=(-0.4, 1.6))
    law.set_yticks(np.arange(0, 1.3, 0.2))
    counts = law.twinx()
    counts.hist(exact, bins=40, color="C2", alpha=0.45)
    highest = np.histogram(exact, 40)[0].max()
    counts.set(ylim=(0, 5 * highest), yticks=[0, highest])
    counts.set_ylabel("stations per bin", loc="bottom")
    counts.grid(False)
    law.legend(loc="upper left")
    for (name, run), style in zip(runs.items(), ("C0", "C1--"), strict=True):
        misfit.semilogy(run["history"], style, label=name)
        if run["spread"]:
            level = noise_misfit(run["spread"], len(exact))
            misfit.axhline(level, color="C1", alpha=0.4, label="noise level: training ends")
    misfit.set(xlabel="L-BFGS iteration", ylabel="misfit J (dimensionless)")
    misfit.legend()
    return figure


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("nonlinear_poisson", __doc__, 24, 300, 0)
    parser.add_argument("--stations", type=common.at_least(2), default=2500, help="points observed")
    chosen = parser.parse_args(argv)
    random = np.random.default_rng(chosen.seed)
    stations = random.uniform(0.0, 1.0, (chosen.stations, 2))
    exact = observe(2 * chosen.cells, stations)
    noise = random.normal(0, 1, chosen.stations)
    mesh = UnitSquareMesh(chosen.cells, chosen.cells)
    observed = femnn.Stations(mesh, stations)
    visited = np.linspace(exact.min(), exact.max(), 1000)
    nets, runs, fields = {}, {}, []
    for name, level in {"no noise": 0.0, "1 % noise": NOISE}.items():
        spread = level * exact.max()
        values = exact + spread * noise
        u = Function(FunctionSpace(mesh, "P", 2), name=f"u {name}")
        nets[name], result = recover(values, spread, observed, u, chosen)
        error = relative_difference(femnn.evaluate(nets[name], visited), truth(visited))
        runs[name] = {"kappa_error": error, "spread": spread, **common.numbers_of(result)}
        fields += [u, law_on_nodes(nets[name], u, f"kappa {name}")]
    sizes = {"cells": chosen.cells, "stations": chosen.stations, "seed": chosen.seed}
    numbers = {**sizes, "u_range": [float(exact.min()), float(exact.max())]}
    numbers |= {"runs": runs, "seconds": watch.seconds()}
    common.show("kappa(u), relative L2 error over the range of u in the data:", runs)
    saved = dict(zip(("network", "network_noise"), nets.values(), strict=True))
    common.write_results(chosen.output, numbers, lambda: draw(exact, nets, runs), saved, fields)
    return numbers


if __name__ == "__main__":
    main()
