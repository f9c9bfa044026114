"""Networks in problems that depend on time."""

from firedrake import *
from mpi4py import MPI

import femnn
from tests.verification.problems.common import TIGHT, controls, square


@controls("implicit", "explicit", "initial")
def time_loop(comm=MPI.COMM_WORLD):
    """An implicit diffusivity, a source of the last time level, moving boundary values."""
    mesh, V, u, v = square(comm)
    x, y = SpatialCoordinate(mesh)
    u0 = Function(V, name="u0").interpolate(sin(pi * x) * sin(pi * y))
    u.assign(u0)
    un = Function(V, name="un").assign(u0)
    g = Function(V, name="g")
    t = Constant(0.0, name="t")
    diffusivity = femnn.NeuralCoefficient(femnn.MLP(1, 10, 1, output="softplus", seed=1), u)
    source = femnn.NeuralCoefficient(femnn.MLP(4, 8, 1, seed=2), un, x, y, t)
    F = (u - un) / 0.1 * v * dx + diffusivity * inner(grad(u), grad(v)) * dx - source * v * dx
    bcs = [DirichletBC(V, t * x, 1), DirichletBC(V, g, 2)]
    problem = femnn.NeuralVariationalProblem(F, u, bcs)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    J = 0
    for step in range(1, 5):
        t.assign(0.1 * step)
        g.assign(0.5 * g + 0.1)
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x * y) ** 2 * dx)
    return J, [diffusivity.weights, source.weights, u0]


@controls("mass", "rate", "initial", "time step")
def heat_capacity(comm=MPI.COMM_WORLD):
    """A mass term c(u, t), and a rate of two previous levels, the gradient of one, and time."""
    mesh = UnitIntervalMesh(8, comm=comm)
    V = FunctionSpace(mesh, "CG", 2)
    (x,) = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(sin(pi * x))
    u, un, uo = (Function(V, name=name).assign(start) for name in ("u", "un", "uo"))
    v = TestFunction(V)
    t, dt = Constant(0.0, name="t"), Constant(0.1, name="dt")
    capacity = femnn.NeuralCoefficient(femnn.MLP(2, 8, 1, output="softplus", seed=1), u, t)
    rate = femnn.NeuralCoefficient(femnn.MLP(4, 8, 1, seed=2), un, uo, un.dx(0), t)
    change = (3 * u - 4 * un + uo) / (2 * dt)
    F = ((0.5 + capacity) * change - rate) * v * dx + 0.2 * inner(grad(u), grad(v)) * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    J = 0
    for step in range(1, 4):
        t.assign(0.1 * step)
        solver.solve()
        uo.assign(un)
        un.assign(u)
        J += femnn.assemble((u - x) ** 4 * dx)
    return J, [capacity.weights, rate.weights, start, dt]


@controls("weights", "field", "constant", "boundary", "initial")
def all_controls(comm=MPI.COMM_WORLD):
    """Two steps with kappa(u), a source, a Constant, boundary values and an initial state."""
    mesh, V, u, v = square(comm, n=5)
    x, y = SpatialCoordinate(mesh)
    start = Function(V, name="start").interpolate(x * y)
    un = Function(V, name="un").assign(start)
    u.assign(start)
    f = Function(V, name="f").interpolate(2 + x)
    g = Function(V, name="g").interpolate(x * y)
    c = Constant(1.3, name="c")
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 6, 1, output="softplus", seed=1), u)
    F = (u - un) / 0.2 * v * dx + kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, g, (1, 3)))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    J = 1e-3 * kappa.weights.squared_norm()
    for _ in range(2):
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x) ** 4 * dx)
    return J, [kappa.weights, f, c, g, start]
