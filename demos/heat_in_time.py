"""Learn a conductivity k(T) from temperatures in a heated rod, with few states in memory.

``dT/dt = (k(T) T')'``, hot at x = 0 and cold before, is stepped by implicit Euler.  A tape keeps
all fields of all steps; under a schedule of ``checkpoint_schedules`` it keeps a few states and
computes the others again when the adjoint needs them.  ``enable_checkpointing`` comes before
anything is recorded, and the tape counts the steps.  All else is as without it, second derivatives
too.
"""

import numpy as np
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 30
STEPS = 20
KEPT = 4  # states in memory
ITERATIONS = 30


def truth(T):
    return 0.1 + 0.4 / (1 + 10 * (T - 0.6) ** 2)


def rod(V, k):
    """The temperature, the last step's, and the solver of a step of 1 / STEPS."""
    T, last, v = Function(V, name="T"), Function(V), TestFunction(V)
    F = STEPS * (T - last) * v * dx + k(T) * inner(grad(T), grad(v)) * dx
    problem = femnn.NeuralVariationalProblem(F, T, DirichletBC(V, 1, 1))
    return T, last, femnn.NeuralVariationalSolver(problem)


mesh = UnitIntervalMesh(CELLS)
V = FunctionSpace(mesh, "P", 1)
T, last, solver = rod(FunctionSpace(mesh, "P", 3), truth)
observed = []
for _ in range(STEPS):
    solver.solve()
    last.assign(T)
    observed.append(Function(V).interpolate(T))

tape = femnn.enable_checkpointing(Revolve(STEPS, KEPT))
continue_annotation()
net = femnn.MLP(1, 12, 12, 1, output="softplus", input_range=(0, 1))
T, last, solver = rod(V, lambda T: femnn.NeuralCoefficient(net, T))
J = 0
for step in tape.timestepper(iter(range(STEPS))):
    solver.solve()
    last.assign(T)
    J += femnn.assemble((T - observed[step]) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(femnn.Weights.of(net)))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS, options={"maxcor": 50})

line = np.linspace(0, 1, 500)
error = np.linalg.norm(femnn.evaluate(net, line) - truth(line)) / np.linalg.norm(truth(line))
ax = femnn.plot_law(net, visited=(0, 1), truth=truth)
ax.set(xlabel="T (dimensionless)", ylabel="k(T) (dimensionless)")
numbers = {"law_error": error, "loss": result.loss}
femnn.save_results("output/heat_in_time", numbers, figure=ax, networks={"k": net})
PETSc.Sys.Print(f"k(T), relative L2 error over all temperatures: {error:.2%}")
