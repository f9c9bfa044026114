"""Two unknowns at once: a law inside the PDE, and an encoder of attributes before it.

``python -m demos.studies.encoder_and_law`` runs it; ``--help`` lists the options.

The temperature u(x) of each of nine walls obeys ``-(kappa(u) u')' = 2`` on (0, 1) with ``u = 0``
at x = 0 and ``kappa u' = theta (3 - u)`` at x = 1; all is dimensionless.  The conductivity kappa(u)
is the same for all walls, theta is a number for each and depends on an attribute of it, say its
height.  Both are unknown.  u is observed in the nodes, from cubic elements and finer cells.

``PDELayer`` is the PDE as a torch module with the network for kappa as its parameters; the encoder
for theta stands before it, and one torch optimiser trains both.  Trained alone, with the best
constant (trained as well) in the other's place, neither explains the data.
"""

import copy
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from demos.studies import common
from demos.studies.common import relative_difference

ATTRIBUTES = np.linspace(0, 1, 9)
COLUMNS = {
    "loss": ("loss", ".2e"),
    "kappa_error": ("kappa error", ".2%"),
    "theta_error": ("theta error", ".2%"),
}


def true_law(u):
    """The conductivity, for UFL and numpy."""
    return 0.3 + 0.15 * u**2


def true_exchange(attributes: np.ndarray) -> np.ndarray:
    """Theta of attributes."""
    return 0.3 + 2 * attributes**2


def wall(u: Function, kappa, theta: Constant) -> tuple:
    """Residual and boundary condition of one wall."""
    v = TestFunction(u.function_space())
    form = kappa * inner(grad(u), grad(v)) * dx - Constant(2.0) * v * dx
    return form - theta * (Constant(3.0) - u) * v * ds(2), DirichletBC(u.function_space(), 0, 1)


def observe(V: FunctionSpace, cells: int) -> torch.Tensor:
    """The true temperatures in the nodes of V that the rank owns, a row for each wall."""
    u, theta = Function(FunctionSpace(UnitIntervalMesh(4 * cells), "P", 3)), Constant(0.0)
    form, bc = wall(u, true_law(u), theta)
    rows = []
    for value in true_exchange(ATTRIBUTES):
        theta.assign(value)
        solve(form == 0, u, bcs=bc)
        rows.append(torch.tensor(assemble(interpolate(u, V)).dat.data_ro))
    return torch.stack(rows)


class Number(torch.nn.Module):
    """A positive constant, whatever the inputs."""

    def __init__(self):
        super().__init__()
        self.raw = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(self.raw).expand(len(x), 1)


def misfit_of(law: torch.nn.Module, u: Function) -> femnn.PDELayer:
    """The PDE as a torch module: theta and a wall's data in, the mean squared misfit out."""
    theta, data = Constant(0.5, name="theta"), Function(u.function_space(), name="data")
    kappa = femnn.NeuralCoefficient(law, u)
    form, bc = wall(u.assign(0), kappa, theta)
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(form == 0, u, bcs=bc)
    J = femnn.assemble((u - data) ** 2 * dx)
    pause_annotation()
    return femnn.PDELayer(ReducedFunctional(J, [Control(c) for c in (kappa.weights, theta, data)]))


def train(encoder, layer, data: torch.Tensor, iterations: int) -> list[float]:
    """Minimise the mean misfit of all walls over both networks; the losses."""
    walls = torch.vmap(layer)  # one wall after the other
    attributes, losses = torch.from_numpy(ATTRIBUTES)[:, None], []
    parameters = [*encoder.parameters(), *layer.parameters()]
    settings = {"max_iter": iterations, "history_size": 50, "tolerance_change": 0.0}
    optimiser = torch.optim.LBFGS(parameters, **settings, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = walls(encoder(attributes)[:, 0], data).mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimiser.step(closure)
    return losses


def law_error(net: torch.nn.Module, truth: Callable, x: np.ndarray) -> float:
    """Relative L2 error of a network of one input on a uniform grid."""
    return relative_difference(femnn.evaluate(net, x), truth(x))


def draw(models: dict, visited: np.ndarray) -> plt.Figure:
    """The law on the left, theta on the right."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    line = np.linspace(0, 1, 200)
    for axis, x, exact, which in zip(
        axes, (visited, line), (true_law(visited), true_exchange(line)), (1, 0), strict=True
    ):
        axis.plot(x, exact, "k", linewidth=4, alpha=0.4, label="truth")
        for name, networks in models.items():
            axis.plot(x, femnn.evaluate(networks[which], x), label=name)
    axes[0].set(xlabel="u (dimensionless)", ylabel=r"$\kappa(u)$ (dimensionless)")
    axes[1].set(xlabel="attribute of a wall", ylabel=r"$\theta$ (dimensionless)")
    axes[0].legend()
    return figure


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    parser = common.options("encoder_and_law", __doc__, 16, 100, 0)
    chosen = parser.parse_args(argv)
    u = Function(FunctionSpace(UnitIntervalMesh(chosen.cells), "P", 2), name="u")
    data = observe(u.function_space(), chosen.cells)
    highest = COMM_WORLD.allreduce(data.max().item(), MPI.MAX)
    visited, between = np.linspace(0, highest, 500), np.linspace(0, 1, 500)
    encoder = femnn.MLP(1, 10, 1, output="softplus", seed=chosen.seed)
    law = femnn.MLP(1, 10, 1, output="softplus", input_range=(0, 3), seed=chosen.seed)
    alone = {
        "encoder only": (copy.deepcopy(encoder), Number()),
        "law only": (Number(), copy.deepcopy(law)),
    }
    models, runs = {**alone, "both": (encoder, law)}, {}
    for name, (outside, inside) in models.items():
        losses = train(outside, misfit_of(inside, u), data, chosen.iterations)
        runs[name] = {
            "loss": min(losses),
            "kappa_error": law_error(inside, true_law, visited),
            "theta_error": law_error(outside, true_exchange, between),
            "history": losses,
        }
    numbers = {"cells": chosen.cells, "seed": chosen.seed, "runs": runs}
    common.show("kappa(u) and theta(attributes) from u, relative L2 errors:", runs, COLUMNS)
    saved = {"encoder": encoder, "network": law}
    common.write_results(chosen.output, numbers, lambda: draw(models, visited), saved, [u])
    return numbers


if __name__ == "__main__":
    main()
