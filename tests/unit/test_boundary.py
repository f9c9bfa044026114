"""Boundary conditions: what their values are made of, and the derivatives for that."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from tests.verification.derivatives import Recording
from tests.verification.test_derivatives import check

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def law():
    return femnn.MLP(1, 6, 1, output="softplus", seed=1)


def model(*names):
    """A functional of what a boundary condition's values are made of, for ``Recording``."""

    def mark(function):
        function.controls, function.seed = names, 0
        return function

    return mark


def diffusion(V, conditions, power=2):
    """A functional of the solution of a nonlinear diffusion with these conditions."""
    u, v = Function(V, name="u"), TestFunction(V)
    x, y = SpatialCoordinate(V.mesh())
    first = u[0] if u.ufl_shape else u
    kappa = femnn.NeuralCoefficient(law(), first)
    source = as_vector([5 + x, y]) if u.ufl_shape else 5 + x
    F = kappa * inner(grad(u), grad(v)) * dx - inner(source, v) * dx
    femnn.solve(F == 0, u, conditions, solver_parameters=TIGHT)
    return femnn.assemble(inner(u, u) ** power * dx + x * first * dx), kappa


def square(comm, degree=1, n=6):
    mesh = UnitSquareMesh(n, n - 1, comm=comm)
    return FunctionSpace(mesh, "CG", degree), *SpatialCoordinate(mesh)


@model("f", "c")
def products(comm=MPI.COMM_WORLD):
    V, x, y = square(comm)
    f, c = Function(V, name="f").interpolate(1 + x * y), Constant(1.3, name="c")
    conditions = [DirichletBC(V, 2 * f, 1), DirichletBC(V, c * y, 2)]
    return diffusion(V, conditions)[0], [f, c]


@model("f", "c")
def nonlinear(comm=MPI.COMM_WORLD):
    """Conditions that overlap: at a corner the last one sets the value."""
    V, x, y = square(comm)
    f, c = Function(V, name="f").interpolate(1 + x * y), Constant(0.8, name="c")
    conditions = [DirichletBC(V, f**2 * c, 1), DirichletBC(V, sin(c * f) + c**2, 3)]
    return diffusion(V, conditions)[0], [f, c]


@model("c", "f")
def constant(comm=MPI.COMM_WORLD):
    V, x, y = square(comm)
    c, f = Constant(0.7, name="c"), Function(V, name="f").interpolate(1 + x * y)
    return diffusion(V, [DirichletBC(V, c, 1), DirichletBC(V, f, (3, 4))])[0], [c, f]


@model("f", "r", "d")
def other_spaces(comm=MPI.COMM_WORLD):
    """Functions of a higher degree, of a Real space, and a vector Constant's entries."""
    V, x, y = square(comm)
    f = Function(FunctionSpace(V.mesh(), "CG", 2), name="f").interpolate(1 + x * y)
    r = Function(FunctionSpace(V.mesh(), "R", 0), name="r").assign(0.6)
    d = Constant([0.4, 1.2], name="d")
    conditions = [DirichletBC(V, cos(f), 1), DirichletBC(V, r, 2), DirichletBC(V, r * d[1] * x, 3)]
    return diffusion(V, conditions)[0], [f, r, d]


@model("c", "g", "vector", "scalar")
def components(comm=MPI.COMM_WORLD):
    """Of vectors: all components at once, one alone, a Function of one alone."""
    V, x, y = square(comm)
    W = VectorFunctionSpace(V.mesh(), "CG", 1)
    c, scalar = Constant([0.4, 1.2], name="c"), Function(V, name="s").interpolate(1 + y)
    g = Function(W, name="g").interpolate(as_vector([x, 1 + y]))
    vector = Function(W, name="vector").interpolate(as_vector([y, 1 + y]))
    conditions = [
        DirichletBC(W, c, 1),
        DirichletBC(W.sub(0), scalar * g[1], 2),
        DirichletBC(W.sub(1), vector[0] ** 2, 4),
    ]
    return diffusion(W, conditions)[0], [c, g, vector, scalar]


@model("inflow", "c")
def parts(comm=MPI.COMM_WORLD):
    """A part of a mixed unknown."""
    mesh = UnitSquareMesh(4, 3, comm=comm)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    w = Function(W, name="w")
    u, p = split(w)
    v, q = TestFunctions(W)
    viscosity = femnn.NeuralCoefficient(law(), dot(u, u))
    F = viscosity * inner(grad(u), grad(v)) * dx - (p * div(v) + q * div(u)) * dx
    inflow = Function(FunctionSpace(mesh, "CG", 2), name="inflow").interpolate(4 * y * (1 - y))
    c = Constant(0.3, name="c")
    conditions = [
        DirichletBC(W.sub(0), as_vector([inflow**2, c * y]), 1),
        DirichletBC(W.sub(0), 0, (3, 4)),
    ]
    femnn.solve(F == 0, w, conditions, solver_parameters=TIGHT)
    return femnn.assemble(dot(u, u) * dx + p * x * dx), [inflow, c]


@model("start", "g", "c")
def loop(comm=MPI.COMM_WORLD):
    """Steps in time with one solver, and values of the time and of a field that both move."""
    V, x, y = square(comm)
    u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
    first, g = Function(V, name="first").interpolate(0.3 + x), Function(V, name="g")
    c, start, t = Constant(1.1, name="c"), Constant(0.4, name="start"), Constant(0.0, name="t")
    kappa = femnn.NeuralCoefficient(law(), u)
    F = (u - un) / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx - v * dx
    conditions = [DirichletBC(V, sin(t) * c * y, 1), DirichletBC(V, t * g**2, 2)]
    problem = femnn.NeuralVariationalProblem(F, u, conditions)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    g.assign(first)
    t.assign(start)
    J = 0
    for step in range(3):
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x * y) ** 2 * dx)
        g.assign(0.8 * g + 0.1)
        t.assign(0.5 + 0.2 * step)
    return J, [start, first, c]


MODELS = [products, nonlinear, constant, other_spaces, components, parts, loop]


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives_for_what_values_are_made_of(recorded):
    recording = Recording(recorded)
    for control in recorded.controls:
        for found in recording.accuracy(control):
            check(found)
            assert found.hessian > 2.9
    for found in recording.accuracy(*recorded.controls):
        check(found)
