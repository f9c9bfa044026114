"""Recover a diffusivity kappa(x, y) from noisy observations of u everywhere.

``python -m demos.studies.coefficient_field`` runs it; ``--help`` lists the options.

The PDE is ``-div(kappa grad u) = f`` on the unit square with zero Dirichlet data, with
``kappa = 1 / (1 + x^2 y^2 + (x - 1)^2 (y - 1)^2)`` and ``u = sin(pi x) sin(pi y)``, from which f
is computed.  Each node's value of u has noise N(0, s) with s a tenth of the L2 norm of u.  A
network of x and y stands for kappa; it is trained with and without the penalty
``1e-4 * integral of |grad kappa|^2``.

The setting is the noise study of S. K. Mitusch, S. W. Funke, M. Kuchta, Hybrid FEM-NN models,
J. Comput. Phys. 446 (2021): 80 x 80 cells, P1, network 2-30-1 with sigmoid and weights from
U[0, 1), seed 3, L-BFGS.  They give 1000 and 10,000 iterations; the default here is 1000.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn
from demos.studies import common

NOISE_TO_SIGNAL = 0.1
PENALTY = 1e-4


def truth(x, y):
    """The diffusivity that is to be recovered, for UFL and numpy."""
    return 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)


def observe(mesh, seed: int) -> Function:
    """The exact u with noise in each node, the same on any number of ranks."""
    V = FunctionSpace(mesh, "P", 1)
    x, y = SpatialCoordinate(mesh)
    exact = sin(pi * x) * sin(pi * y)
    spread = NOISE_TO_SIGNAL * sqrt(assemble(exact**2 * dx))
    observed = Function(V, name="u observed").interpolate(exact)
    n = round(V.dim() ** 0.5)
    noise = np.random.default_rng(seed).normal(0, spread, (n, n))
    column = (Function(V).interpolate(c).dat.data_ro for c in (x, y))
    i, j = (np.rint(c * (n - 1)).astype(int) for c in column)
    observed.dat.data[:] += noise[i, j]
    return observed


def recover(observed: Function, penalty: float, seed: int, iterations: int) -> tuple:
    """Train a network for kappa; returns it, u of the model, and the numbers."""
    V = observed.function_space()
    x, y = SpatialCoordinate(V.mesh())
    u, v = Function(V, name="u"), TestFunction(V)
    net = femnn.MLP(2, 30, 1, activation="sigmoid", init="uniform", seed=seed)
    kappa = femnn.NeuralCoefficient(net, x, y)
    f = -div(truth(x, y) * grad(sin(pi * x) * sin(pi * y)))
    get_working_tape().clear_tape()
    continue_annotation()
    equation = kappa * inner(grad(TrialFunction(V)), grad(v)) * dx == f * v * dx
    femnn.solve(equation, u, bcs=DirichletBC(V, 0, "on_boundary"))
    J = assemble((u - observed) ** 2 * dx)
    if penalty:
        J += femnn.assemble(penalty * inner(kappa.grad(), kappa.grad()) * dx)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    pause_annotation()
    result = femnn.fit(Jhat, maxiter=iterations, gtol=0)
    error = femnn.assemble((kappa - truth(x, y)) ** 2 * dx) / assemble(truth(x, y) ** 2 * dx)
    return net, {"penalty": penalty, "kappa_error": float(error**0.5), **common.numbers_of(result)}


def on_nodes(net, V: FunctionSpace, name: str) -> Function:
    """A network of x and y in the nodes of a space."""
    x = SpatialCoordinate(V.mesh())
    nodes = Function(VectorFunctionSpace(V.mesh(), "P", 1)).interpolate(x)
    field = Function(V, name=name)
    field.dat.data[:] = femnn.evaluate(net, *nodes.dat.data_ro.T)
    return field


def draw(nets: dict, runs: dict[str, dict]) -> plt.Figure:
    """Truth, recovered fields, their errors, and the losses."""
    line = np.linspace(0, 1, 201)
    x, y = np.meshgrid(line, line)
    exact = truth(x, y)
    found = {name: femnn.evaluate(net, x, y) for name, net in nets.items()}
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    fields = axes[0]
    titles = [r"true $\kappa(x, y)$", *(rf"recovered $\kappa$, {name}" for name in found)]
    for axis, values, title in zip(fields, [exact, *found.values()], titles, strict=True):
        levels = axis.pcolormesh(x, y, values, vmin=exact.min(), vmax=exact.max())
        axis.set(title=title)
    figure.colorbar(levels, ax=list(fields), label=r"$\kappa$ (dimensionless)", extend="both")
    errors = {name: np.abs(values - exact) for name, values in found.items()}
    highest = max(np.quantile(e, 0.99) for e in errors.values())
    for axis, (name, error) in zip(axes[1, 1:], errors.items(), strict=True):
        levels = axis.pcolormesh(x, y, error, vmin=0, vmax=highest, cmap="magma_r")
        axis.set(title=rf"error, {name}: {100 * runs[name]['kappa_error']:.1f} % in $L^2$")
    figure.colorbar(levels, ax=list(axes[1, 1:]), label=r"$|\kappa - \kappa_{true}|$", extend="max")
    for axis in [*fields, *axes[1, 1:]]:
        axis.set(xlabel="x", ylabel="y", aspect="equal")
        axis.grid(False)
    for name, run in runs.items():
        axes[1, 0].loglog(range(1, len(run["history"])), run["history"][1:], label=name)
    axes[1, 0].set(xlabel="L-BFGS iteration", ylabel="loss J", title="training")
    axes[1, 0].legend()
    return figure


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("coefficient_field", __doc__, 80, 1000, 3)
    chosen = parser.parse_args(argv)
    observed = observe(UnitSquareMesh(chosen.cells, chosen.cells), chosen.seed)
    penalties = {"regularised": PENALTY, "not regularised": 0.0}
    nets, runs = {}, {}
    for name, penalty in penalties.items():
        nets[name], runs[name] = recover(observed, penalty, chosen.seed, chosen.iterations)
    numbers = {"cells": chosen.cells, "seed": chosen.seed, "noise_to_signal": NOISE_TO_SIGNAL}
    numbers |= {"runs": runs, "seconds": watch.seconds()}
    common.show("kappa(x, y) from noisy u, relative L2 error:", runs)
    V = observed.function_space()
    fields = [on_nodes(net, V, f"kappa {name}") for name, net in nets.items()]
    x, y = SpatialCoordinate(V.mesh())
    fields += [Function(V, name="kappa true").interpolate(truth(x, y)), observed]
    saved = dict(zip(("network", "network_not_regularised"), nets.values(), strict=True))
    common.write_results(chosen.output, numbers, lambda: draw(nets, runs), saved, fields)
    return numbers


if __name__ == "__main__":
    main()
