"""Learn a reaction rate r(u) in du/dt = D lap u + r(u), without a network in any solve.

Strang splitting takes half a step of du/dt = r(u) point by point in torch, a step of diffusion by
the solver, and half a step of r again.  The solver's matrix has no network in it: it is factorised
once, for all steps of all iterations.  u is seen at the end of each step; it comes from the true
rate with an eighth of the step.
"""

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 20
STEPS = 10
ITERATIONS = 100
END = 1.0
DIFFUSIVITY = 0.01


def truth(u):
    return 8 * u * (1 - u) * (u - 0.3)


class TrueRate(torch.nn.Module):
    def forward(self, u):
        return truth(u)


mesh = UnitSquareMesh(CELLS, CELLS)
V = FunctionSpace(mesh, "P", 1)
x, y = SpatialCoordinate(mesh)


def splitting(u, rate, steps):
    """Steps of u by the rate (a torch module) and diffusion."""
    un, v, dt = Function(V), TestFunction(V), Constant(END / steps)
    F = (u - un) / dt * v * dx + DIFFUSIVITY * inner(grad((u + un) / 2), grad(v)) * dx
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    u.interpolate((1 + cos(pi * x) * cos(pi * y)) / 2)
    return femnn.StrangSplitting(solver, un, rate, dt=dt, method="heun")


exact, observed = Function(V), []
fine = splitting(exact, TrueRate(), 8 * STEPS)
for step in range(1, 8 * STEPS + 1):
    fine.step()
    if step % 8 == 0:
        observed.append(exact.copy(deepcopy=True))

continue_annotation()
u = Function(V, name="u")
net = femnn.MLP(1, 16, 16, 1, input_range=(0, 1), init="normal")
scheme = splitting(u, net, STEPS)
J = 0
for seen in observed:
    scheme.step()
    J += femnn.assemble((u - seen) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(scheme.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 50})

visited = np.array([femnn.NeuralCoefficient(net, seen).visited()[0] for seen in observed])
line = np.linspace(visited.min(), visited.max(), 500)
error = np.linalg.norm(femnn.evaluate(net, line) - truth(line)) / np.linalg.norm(truth(line))
ax = femnn.plot_law(net, visited=line, truth=truth)
ax.set(xlabel="u (dimensionless)", ylabel="r(u) (1/time)")
numbers = {"rate_error": error, "loss": result.loss}
femnn.save_results("output/reaction_splitting", numbers, figure=ax, networks={"r": net})
PETSc.Sys.Print(f"r(u), relative L2 error over the range of u: {error:.2%}")
