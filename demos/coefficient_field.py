"""Recover a conductivity kappa(x, y) from noisy values of u, with a penalty on its gradient.

``-div(kappa grad u) = f`` on the unit square with u = 0 on its sides; f is known.  u is measured
in all nodes with independent noise, a tenth of u's L2 norm.  A network of x and y stands for
kappa. Noise makes it rough; the penalty ``PENALTY * integral of |grad kappa|^2`` keeps it smooth,
and ``kappa.grad()`` is exact, by the chain rule through the network.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 40
ITERATIONS = 80
NOISE = 0.05
PENALTY = 1e-4


def truth(x, y):
    return 1 / (1 + x**2 * y**2 + (x - 1) ** 2 * (y - 1) ** 2)


mesh = UnitSquareMesh(CELLS, CELLS)
V = FunctionSpace(mesh, "P", 1)
x, y = SpatialCoordinate(mesh)
exact = sin(pi * x) * sin(pi * y)

# Each node has the same noise on any number of ranks.
noise = np.random.default_rng(3).normal(0, NOISE, (CELLS + 1, CELLS + 1))
i, j = (np.rint(CELLS * Function(V).interpolate(c).dat.data_ro).astype(int) for c in (x, y))
observed = Function(V, name="u observed").interpolate(exact)
observed.dat.data[:] += noise[i, j]

continue_annotation()
u, v = Function(V, name="u"), TestFunction(V)
net = femnn.MLP(2, 30, 1, output="softplus", seed=1)
kappa = femnn.NeuralCoefficient(net, x, y)
f = -div(truth(x, y) * grad(exact))
F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
femnn.solve(F == 0, u, bcs=DirichletBC(V, 0, "on_boundary"))
J = assemble((u - observed) ** 2 * dx)
J += femnn.assemble(PENALTY * inner(kappa.grad(), kappa.grad()) * dx)
Jhat = ReducedFunctional(J, Control(kappa.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS)

squared = femnn.assemble((kappa - truth(x, y)) ** 2 * dx) / assemble(truth(x, y) ** 2 * dx)
error = squared**0.5
line = np.linspace(0, 1, 101)
X, Y = np.meshgrid(line, line)
found = femnn.evaluate(net, X, Y)
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for ax, title, values in zip(axes, ("truth", "learned"), (truth(X, Y), found), strict=False):
    levels = ax.pcolormesh(X, Y, values, vmin=0.5, vmax=1)
    ax.set(title=title, xlabel="x", ylabel="y", aspect="equal")
figure.colorbar(levels, ax=axes[:2], label=r"$\kappa$ (dimensionless)", extend="both")
levels = axes[2].pcolormesh(X, Y, abs(found - truth(X, Y)), cmap="magma_r")
axes[2].set(title=f"error: {error:.1%} in $L^2$", xlabel="x", ylabel="y", aspect="equal")
figure.colorbar(levels, ax=axes[2], label=r"$|\kappa - \kappa_{true}|$")
numbers = {"field_error": error, "loss": result.loss}
femnn.save_results(
    "output/coefficient_field", numbers, figure=figure, networks={"kappa": net}, fields=observed
)
PETSc.Sys.Print(f"kappa(x, y), relative L2 error with {NOISE / 0.5:.0%} noise: {error:.2%}")
