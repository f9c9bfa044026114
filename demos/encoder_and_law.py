"""Train two networks together: a law inside a PDE, and an encoder of attributes before it.

The temperature u of each of nine walls obeys ``-(kappa(u) u')' = 2`` on (0, 1), with u = 0 at the
left and ``kappa u' = theta (3 - u)`` at the right.  kappa(u) is the same for all walls; theta
depends on an attribute of the wall.  Both are unknown, u is seen.  ``PDELayer`` makes the PDE a
torch module whose parameters are the law's weights; the encoder for theta stands before it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 16
WALLS = 9
ITERATIONS = 100


def true_kappa(u):
    return 0.3 + 0.15 * u**2


def true_theta(attribute):
    return 0.3 + 2 * attribute**2


def problem(u, kappa, theta):
    V = u.function_space()
    v = TestFunction(V)
    F = kappa * inner(grad(u), grad(v)) * dx - 2 * v * dx - theta * (3 - u) * v * ds(2)
    return F == 0, u, DirichletBC(V, 0, 1)


mesh = UnitIntervalMesh(CELLS)
V = FunctionSpace(mesh, "P", 2)
attributes = torch.linspace(0, 1, WALLS, dtype=torch.float64)[:, None]
theta, exact = Constant(0.5), Function(FunctionSpace(mesh, "P", 4))
observed = []
for value in true_theta(attributes[:, 0]):
    theta.assign(float(value))
    solve(*problem(exact, true_kappa(exact), theta))
    observed.append(torch.tensor(assemble(interpolate(exact, V)).dat.data_ro))

continue_annotation()
u, data = Function(V, name="u"), Function(V)
law = femnn.MLP(1, 10, 1, output="softplus", input_range=(0, 3))
kappa = femnn.NeuralCoefficient(law, u)
femnn.solve(*problem(u, kappa, theta))
J = femnn.assemble((u - data) ** 2 * dx)
layer = femnn.PDELayer(ReducedFunctional(J, [Control(c) for c in (kappa.weights, theta, data)]))
pause_annotation()

encoder = femnn.MLP(1, 10, 1, output="softplus")
misfits = torch.vmap(layer)  # one wall after the other
parameters = [*encoder.parameters(), *layer.parameters()]
settings = {"tolerance_change": 0, "line_search_fn": "strong_wolfe"}
optimiser = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, **settings)


def loss():
    optimiser.zero_grad()
    total = misfits(encoder(attributes)[:, 0], torch.stack(observed)).mean()
    total.backward()
    return total


optimiser.step(loss)

visited = femnn.NeuralCoefficient(law, exact).visited()[0]  # in the wall with the highest theta
truths, ranges = (true_kappa, true_theta), (visited, (0, 1))
nets, errors = {"kappa": law, "theta": encoder}, {}
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax, name, truth, seen in zip(axes, nets, truths, ranges, strict=True):
    line = np.linspace(*seen, 500)
    difference = femnn.evaluate(nets[name], line) - truth(line)
    errors[name] = np.linalg.norm(difference) / np.linalg.norm(truth(line))
    femnn.plot_law(nets[name], visited=seen, truth=truth, ax=ax)
    ax.set_ylabel(f"{name} (dimensionless)")
axes[0].set_xlabel("u (dimensionless)")
axes[1].set_xlabel("attribute of a wall (dimensionless)")
femnn.save_results("output/encoder_and_law", errors, figure=figure, networks=nets)
PETSc.Sys.Print("relative L2 errors: kappa {kappa:.2%}, theta {theta:.2%}".format(**errors))
