"""Find where a substance was released, from what is left of it later: a network as initial state.

``du/dt = D lap u`` on the unit square, without flux through its sides, by ten steps of Crank and
Nicolson.  A network of x and y, evaluated at the nodes (``space=V``), is the initial state.  It is
smooth, which is what this ill-posed problem needs.  The solver's matrix is factorised once, and
the network is evaluated once for each run.  u is seen in all nodes at the later half of the steps.
"""

import matplotlib.pyplot as plt
import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 24
STEPS = 10
ITERATIONS = 200
DIFFUSIVITY = 0.01


def truth(x, y, exp=exp):
    first = exp(-40 * ((x - 0.3) ** 2 + (y - 0.35) ** 2))
    return first + 0.7 * exp(-30 * ((x - 0.7) ** 2 + (y - 0.6) ** 2))


def spread(V, initial):
    """The states after each step, from an initial state."""
    u, last, v = Function(V, name="u"), Function(V), TestFunction(V)
    half = (u + last) / 2
    F = STEPS * (u - last) * v * dx + DIFFUSIVITY * inner(grad(half), grad(v)) * dx
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    last.interpolate(initial)
    for _ in range(STEPS):
        solver.solve()
        last.assign(u)
        yield u


mesh = UnitSquareMesh(CELLS, CELLS)
V = FunctionSpace(mesh, "P", 1)
x, y = SpatialCoordinate(mesh)
fine = spread(FunctionSpace(mesh, "P", 3), truth(x, y))
observed = [Function(V).interpolate(u) for u in fine]

continue_annotation()
net = femnn.MLP(2, 20, 20, 1, output="softplus", input_range=(0, 1), init="normal")
u0 = femnn.NeuralCoefficient(net, x, y, space=V)
J = 0
for step, u in enumerate(spread(V, u0.update())):
    if step >= STEPS // 2:
        J += femnn.assemble((u - observed[step]) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(u0.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 50})

squared = femnn.assemble((u0 - truth(x, y)) ** 2 * dx) / assemble(truth(x, y) ** 2 * dx)
error = squared**0.5
start = Function(V, name="u at the start").assign(u0)
line = np.linspace(0, 1, 101)
X, Y = np.meshgrid(line, line)
exact, found = truth(X, Y, np.exp), femnn.evaluate(net, X, Y)
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for ax, title, values in zip(axes, ("truth", "found"), (exact, found), strict=False):
    levels = ax.pcolormesh(X, Y, values, vmin=0, vmax=1)
    ax.set(title=title, xlabel="x", ylabel="y", aspect="equal")
figure.colorbar(levels, ax=axes[:2], label="u at the start (dimensionless)", extend="max")
levels = axes[2].pcolormesh(X, Y, abs(found - exact), cmap="magma_r")
axes[2].set(title=f"error: {error:.1%} in $L^2$", xlabel="x", ylabel="y", aspect="equal")
figure.colorbar(levels, ax=axes[2], label="|found - truth|")
numbers = {"state_error": error, "loss": result.loss}
femnn.save_results(
    "output/initial_state", numbers, figure=figure, networks={"u0": net}, fields=start
)
PETSc.Sys.Print(f"initial state, relative L2 error: {error:.2%}")
