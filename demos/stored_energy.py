"""Learn the stored energy of rubber from the displacements of a pulled sheet.

A sheet in plane strain slides on two sides and is pulled on a third, more at its upper end.  Its
displacement is seen everywhere, as by image correlation.  The energy is
``N(I1) + BULK / 2 (J - 1)^2`` with the isochoric invariant I1 and the volume ratio J.  N is a
network that is convex and increasing for all weights. The stress is the energy's derivative:
``femnn.Gradient`` makes dN/dI1 a coefficient, and Newton's tangent, with the network's second
derivative in it, is exact and symmetric.
"""

import numpy as np
from firedrake import *
from firedrake.adjoint import *

import femnn

CELLS = 8
ITERATIONS = 100
LOADS = (0.5, 1.0, 1.5)  # pull on the right side, in each of three states
BULK = 5.0


def truth(I1):
    """The true energy's derivative."""
    return 0.4 + 0.8 * (I1 - 3) ** 2


def invariant(u):
    F = Identity(2) + grad(u)
    return (inner(F, F) + 1) / det(F) ** (2 / 3)


def states(u, slope):
    """The displacement for each load; slope is dN/dI1."""
    V = u.function_space()
    v, load = TestFunction(V), Constant(0.0)
    J = det(Identity(2) + grad(u))
    work = slope * derivative(invariant(u), u, v) + BULK * (J - 1) * derivative(J, u, v)
    y = SpatialCoordinate(V.mesh())[1]
    residual = work * dx(degree=6) - load * y * v[0] * ds(2)
    bcs = [DirichletBC(V.sub(0), 0, 1), DirichletBC(V.sub(1), 0, 3)]
    problem = femnn.NeuralVariationalProblem(residual, u, bcs)
    options = {"snes_linesearch_type": "bt"}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
    for value in LOADS:
        load.assign(value)
        solver.solve()
        yield u


mesh = UnitSquareMesh(CELLS, CELLS)
V = VectorFunctionSpace(mesh, "P", 2)
exact = Function(VectorFunctionSpace(mesh, "P", 4))
observed = [Function(V).interpolate(u) for u in states(exact, truth(invariant(exact)))]

continue_annotation()
u = Function(V, name="displacement")
energy = femnn.ConvexMLP(1, 12, 12, 1, increasing=[0], input_range=(3, 4))
slope = femnn.NeuralCoefficient(femnn.Gradient(energy), invariant(u), degree=6)
J = 0
for found, seen in zip(states(u, slope), observed, strict=True):
    J += femnn.assemble(1e3 * (found - seen) ** 2 * dx)
Jhat = ReducedFunctional(J, Control(slope.weights))
pause_annotation()

result = femnn.fit(Jhat, maxiter=ITERATIONS)

visited = np.array([slope.visited()[0] for _ in states(u, slope)])
line = np.linspace(3, visited.max(), 500)
error = np.linalg.norm(femnn.evaluate(slope.net, line) - truth(line)) / np.linalg.norm(truth(line))
ax = femnn.plot_law(slope.net, visited=line, truth=truth)
ax.set(xlabel="I1 (dimensionless)", ylabel="dN/dI1 (units of stress)")
numbers = {"slope_error": error, "loss": result.loss}
femnn.save_results(
    "output/stored_energy", numbers, figure=ax, networks={"energy": energy}, fields=u
)
PETSc.Sys.Print(f"dN/dI1, relative L2 error up to I1 = {line[-1]:.2f}: {error:.2%}")
