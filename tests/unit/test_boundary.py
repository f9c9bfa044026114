"""Boundary conditions: what their values are made of, and the derivatives for that."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.parallel import on_rank_zero
from tests.unit.models import law
from tests.verification.derivatives import Recording, model
from tests.verification.test_derivatives import check, measured

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


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
    conditions = [DirichletBC(V, f**2, 1), DirichletBC(V, r, 2), DirichletBC(V, r * d[1] * x, 3)]
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
        DirichletBC(W, [0.1, 0.2], (1, 3)),
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
    c, t = Constant(1.1, name="c"), Constant(0.4, name="t")
    R = FunctionSpace(V.mesh(), "R", 0)
    start, clock = Function(R, name="start").assign(0.5), Function(R, name="clock")
    kappa = femnn.NeuralCoefficient(law(), u)
    F = (u - un) / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx - v * dx
    conditions = [DirichletBC(V, sin(t) * c * y, 1), DirichletBC(V, clock * g**2, 2)]
    problem = femnn.NeuralVariationalProblem(F, u, conditions)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
    g.assign(first)
    clock.assign(start)
    J = 0
    for step in range(3):
        solver.solve()
        un.assign(u)
        J += femnn.assemble((u - x * y) ** 2 * dx)
        g.assign(0.8 * g + 0.1)
        clock.assign(clock + 0.2)
        t.assign(0.5 + 0.2 * step)
    return J, [start, first, c]


@model("f", "c")
def projected(comm=MPI.COMM_WORLD):
    """As Firedrake does where an element has no interpolation; such elements compile slowly."""
    V, _, y = square(comm)
    f, c = Function(V, name="f").interpolate(1 + y), Constant(0.8, name="c")
    bc = DirichletBC(V, f**2 * c + y, 1)
    bc._function_arg = Function(V)
    bc._function_arg_update = Projector(f**2 * c + y, bc._function_arg).project
    return diffusion(V, [bc])[0], [f, c]


MODELS = [products, nonlinear, constant, other_spaces, components, parts, loop, projected]


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives_for_what_values_are_made_of(recorded):
    recording = Recording(recorded)
    for control in recorded.controls:
        for found in recording.accuracy(control):
            check(found)
            assert found.hessian > 2.9


@pytest.mark.parallel([2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives_are_the_same_on_ranks(recorded):
    numbers, _ = measured(recorded, MPI.COMM_WORLD)
    alone, _ = on_rank_zero(MPI.COMM_WORLD, measured, recorded, MPI.COMM_SELF)
    assert numbers == pytest.approx(alone, rel=1e-9)


def nonlinear_problem(V, value):
    """A solver with one condition, and what its solution is a functional of."""
    u, v = Function(V, name="u"), TestFunction(V)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
    bc = DirichletBC(V, value, "on_boundary")
    problem = femnn.NeuralVariationalProblem(F, u, bc)
    return u, kappa, bc, femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)


def replayed(J, *controls):
    """The functional's value at the recorded point, evaluated elsewhere in between."""
    Jhat = ReducedFunctional(J, [Control(c) for c in controls])
    Jhat([c._ad_mul(1.1) for c in controls])
    return float(Jhat([c._ad_copy() for c in controls]))


@pytest.mark.parametrize("kind", ["time", "field", "nothing"])
def test_values_that_change_without_a_record_are_kept_as_they_were(kind):
    V, x, _ = square(COMM_WORLD)
    t, f = Constant(0.5), Function(V).assign(0.5)
    value = {"time": t * x, "field": f * t, "nothing": x}[kind]
    continue_annotation()
    u, kappa, _, solver = nonlinear_problem(V, value)
    J = 0
    for step in range(3):
        with stop_annotating():
            t.assign(1.0 + step)
            f.assign(2.0 - step)
        solver.solve()
        J += femnn.assemble(u**2 * dx)
    pause_annotation()
    assert replayed(J, kappa.weights) == pytest.approx(float(J), rel=1e-10)


def test_recording_goes_on_after_an_evaluation_elsewhere():
    """A control's node keeps to its control, though the user's object has another value."""
    V, x, _ = square(COMM_WORLD)
    c = Constant(1.0)
    continue_annotation()
    u, _, _, solver = nonlinear_problem(V, c * x)
    solver.solve()
    first = ReducedFunctional(femnn.assemble(u**2 * dx), Control(c))
    first(Constant(2.0))
    solver.solve()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    at_three = float(Jhat(Constant(3.0)))
    assert at_three == pytest.approx(float(first(Constant(3.0))), rel=1e-9)
    assert float(Jhat.derivative()) > 0.1


def test_values_that_are_set_and_taken_away_between_solves():
    V, x, _ = square(COMM_WORLD)
    f, c = Function(V).interpolate(1 + x), Constant(0.7)
    continue_annotation()
    u, _, bc, solver = nonlinear_problem(V, c * f)
    J = []
    changes = [
        lambda: None,
        bc.homogenize,
        bc.restore,
        lambda: bc.set_value(2.0),
        lambda: bc.set_value(f**2),
        lambda: bc.set_value(np.float64(0.3)),
        lambda: setattr(bc, "function_arg", f),
    ]
    for change in changes:
        change()
        solver.solve()
        J.append(femnn.assemble(u**4 * dx))
    pause_annotation()
    assert J[0] == pytest.approx(J[2], rel=1e-9)
    assert len({round(float(j), 6) for j in J}) == len(changes) - 1
    assert replayed(sum(J), c, f) == pytest.approx(float(sum(J)), rel=1e-9)
    by_c = [float(ReducedFunctional(j, Control(c)).derivative()) for j in J[:3]]
    assert by_c[0] == pytest.approx(by_c[2], rel=1e-8)
    assert by_c[1] == 0.0
    assert by_c[0] > 0.1


def test_values_of_the_unknown_before_the_solve():
    V, x, y = square(COMM_WORLD)
    start = Function(V).interpolate(1 + x * y)
    continue_annotation()
    u = Function(V)
    u.assign(start)
    v, kappa = TestFunction(V), femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 5 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 2 * u, 1), solver_parameters=TIGHT)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat, away = ReducedFunctional(J, Control(start)), start.copy(deepcopy=True)
    away *= 1.2
    assert taylor_test(Jhat, away, Function(V).interpolate(cos(3 * x + y))) > 1.95


def test_values_that_jump_have_no_derivative():
    """Of those that the cells at a node see, the interpolation takes one."""
    V, x, y = square(COMM_WORLD)
    jumps = Function(FunctionSpace(V.mesh(), "DG", 0)).interpolate(x + y)
    c = Constant(0.5)
    continue_annotation()
    u, _, _, solver = nonlinear_problem(V, c * jumps)
    solver.solve()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    assert taylor_test(ReducedFunctional(J, Control(c)), c, Constant(1.0)) > 1.95
    with pytest.raises(NotImplementedError, match="differs between the cells that share a node"):
        ReducedFunctional(J, Control(jumps)).derivative()


def test_a_number_for_fluxes_is_refused():
    """Firedrake would give it to each facet, along its own normal and of its own length."""
    mesh = UnitSquareMesh(2, 2)
    W = FunctionSpace(mesh, "RT", 1) * FunctionSpace(mesh, "DG", 0)
    w, (t, q) = Function(W), TestFunctions(W)
    s, p = split(w)
    kappa = femnn.NeuralCoefficient(law(), p)
    F = kappa * dot(s, t) * dx - p * div(t) * dx - (div(s) + 1) * q * dx
    with pytest.raises(ValueError, match=r"on \(1,\) has the number 0.5 .* shape \(2,\)"):
        femnn.solve(F == 0, w, DirichletBC(W.sub(0), 0.5, 1))
    for value in (0, as_vector([0.5, 0])):
        femnn.solve(F == 0, w, DirichletBC(W.sub(0), value, 1))
    assert assemble(dot(s, FacetNormal(mesh)) * ds(1)) == pytest.approx(-0.5)


def test_a_network_in_the_value_of_a_condition():
    V, x, y = square(COMM_WORLD)
    f = Function(V).interpolate(x)
    continue_annotation()
    inflow = femnn.NeuralCoefficient(femnn.MLP(2, 5, 1, seed=3), f, y, space=V).update()
    u, _, _, solver = nonlinear_problem(V, 2 * inflow + x)
    solver.solve()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    weights = inflow.weights
    direction = weights.like(np.random.default_rng(0).standard_normal(len(weights)))
    away = weights.like(1.2 * weights.vector)
    assert taylor_test(ReducedFunctional(J, Control(weights)), away, direction) > 1.95
    assert taylor_test(ReducedFunctional(J, Control(f)), f, Function(V).interpolate(cos(y))) > 1.95
