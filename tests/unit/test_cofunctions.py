"""Assembled Cofunctions in residuals: the same numbers as with the forms that they come from."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.parallel import on_rank_zero
from tests.unit.models import law, square
from tests.unit.solves.diffusion import LU, TIGHT
from tests.unit.solves.test_multigrid import FAS, P1PC
from tests.verification.derivatives import Recording, model
from tests.verification.test_derivatives import check, measured


@model("weights", "f", "q", "r", "s")
def weighted(comm=MPI.COMM_WORLD, assembled=True):
    """Sources with weights of Constants and Real Functions; one Cofunction stands there twice."""
    V, u, v, x, y = square(comm)
    f, q = Function(V, name="f").interpolate(1 + x * y), Constant([0.7, 2.0], name="q")
    r = Function(FunctionSpace(V.mesh(), "R", 0), name="r").assign(1.4)
    s = Constant(0.6, name="s")
    kappa = femnn.NeuralCoefficient(law(), u)
    first, second = f**2 * s * v * dx, sin(f) * v * ds(2)
    if assembled:
        first, second = femnn.assemble(first), assemble(second)
    F = kappa * inner(grad(u), grad(v)) * dx - q[0] ** 2 * r * first
    F = F + q[1] * second - 2 * first - s * y * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, x, (1, 3)), solver_parameters=LU)
    return femnn.assemble(u**2 * dx + x * u * dx), [kappa.weights, f, q, r, s]


@model("weights", "a", "f")
def networks(comm=MPI.COMM_WORLD, assembled=True):
    """Assembled from a network of data, in a problem of the form a == L."""
    V, u, v, x, y = square(comm)
    f, a = Function(V, name="f").interpolate(1 + x), Constant(1.5, name="a")
    w = TrialFunction(V)
    kappa = femnn.NeuralCoefficient(law(2), f, y)
    source = kappa * f * v * dx
    if assembled:
        source = femnn.assemble(source)
    lhs, rhs = (1 + kappa) * inner(grad(w), grad(v)) * dx, a * source - y * v * dx
    femnn.solve(lhs == rhs, u, DirichletBC(V, a * x, 1), solver_parameters=LU)
    return femnn.assemble(u**4 * dx), [kappa.weights, a, f]


@model("f", "weights", "start")
def loop(comm=MPI.COMM_WORLD, assembled=True):
    """Steps in time with one solver and one Cofunction, which is assembled from the last step."""
    V, u, v, x, y = square(comm)
    un, f = Function(V, name="un"), Function(V, name="f").interpolate(1 + x)
    start = Function(V, name="start").interpolate(0.3 + y)
    kappa = femnn.NeuralCoefficient(law(), u)
    past = un**2 * f * v * dx
    F = u / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx
    c = Cofunction(V.dual()) if assembled else past
    problem = femnn.NeuralVariationalProblem(F - 10 * c, u, DirichletBC(V, x, 1))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=LU)
    un.assign(start)
    J = 0
    for _ in range(3):
        if assembled:
            femnn.assemble(past, tensor=c)
        solver.solve()
        un.assign(u)
        J += femnn.assemble(u**2 * dx)
    return J, [f, kappa.weights, start]


@model("f", "c")
def mixed(comm=MPI.COMM_WORLD, assembled=True):
    """A mixed unknown, and a copy of a Cofunction."""
    mesh = UnitSquareMesh(4, 3, comm=comm)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    w, (v, q) = Function(W, name="w"), TestFunctions(W)
    u, p = split(w)
    f = Function(FunctionSpace(mesh, "CG", 2), name="f").interpolate(4 * y * (1 - y))
    c = Constant(0.3, name="c")
    viscosity = femnn.NeuralCoefficient(law(), dot(u, u))
    F = viscosity * inner(grad(u), grad(v)) * dx - (p * div(v) + q * div(u)) * dx
    source = inner(as_vector([f**2, c * x]), v) * dx + 0.1 * f * q * dx
    if assembled:
        term = Cofunction(W.dual())
        term.assign(femnn.assemble(source))
        source = term
    conditions = [DirichletBC(W.sub(0), as_vector([f, c]), 1), DirichletBC(W.sub(0), 0, (3, 4))]
    femnn.solve(F - source == 0, w, conditions, solver_parameters=TIGHT)
    return femnn.assemble(dot(u, u) * dx + p * x * dx), [f, c]


MODELS = [weighted, networks, loop, mixed]


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives(recorded):
    for found in Recording(recorded).accuracy(*recorded.controls):
        check(found)


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_those_of_forms(recorded):
    """Values, gradients, tangent-linear models and Hessian actions, away from the record."""
    forms = model(*recorded.controls, seed=recorded.seed)(
        lambda comm: recorded(comm, assembled=False)
    )
    numbers, vectors = measured(recorded, MPI.COMM_WORLD)
    expected, expected_vectors = measured(forms, MPI.COMM_WORLD)
    assert numbers == pytest.approx(expected, rel=1e-8)
    for vector, wanted in zip(vectors, expected_vectors, strict=True):
        assert np.linalg.norm(vector - wanted) < 1e-8 * np.linalg.norm(wanted)


@pytest.mark.parallel([2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_the_same_on_ranks(recorded):
    numbers, _ = measured(recorded, MPI.COMM_WORLD)
    alone, _ = on_rank_zero(MPI.COMM_WORLD, measured, recorded, MPI.COMM_SELF)
    assert numbers == pytest.approx(alone, rel=1e-9)


def problem(V, u, term):
    """A nonlinear residual with a term in it."""
    v, kappa = TestFunction(V), femnn.NeuralCoefficient(law(), u)
    return kappa * inner(grad(u), grad(v)) * dx - term


@pytest.mark.parallel([1, 2])
def test_point_sources():
    """At a vertex, a point source's Cofunction is a unit vector; its strength is a weight."""
    V, u, v, *_ = square(COMM_WORLD, n=4)
    places, q = [[0.25, 1 / 3], [0.5, 2 / 3]], Constant([2.0, 1.0])
    points = [VertexOnlyMesh(V.mesh(), [place]) for place in places]
    units = [assemble(TestFunction(FunctionSpace(p, "DG", 0)) * dx) for p in points]
    first, second = (assemble(interpolate(v, unit)) for unit in units)
    F = problem(V, u, q[0] * first + q[1] * second)
    continue_annotation()
    femnn.solve(F == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(q))
    value, slope = Jhat(Constant([3.0, 1.5])), Jhat.derivative()
    results, c = [], Cofunction(V.dual())
    for change in (0.0, 1e-4, -1e-4):
        u.assign(0)
        c.dat.data_wo[near(V, places[0])] = 3.0 + change
        c.dat.data_wo[near(V, places[1])] = 1.5
        femnn.solve(problem(V, u, c) == 0, u, DirichletBC(V, 0, 1), solver_parameters=TIGHT)
        results.append(assemble(u**2 * dx))
    assert value == pytest.approx(results[0], rel=1e-10)
    assert slope.dat.data_ro[0] == pytest.approx((results[1] - results[2]) / 2e-4, rel=1e-6)
    assert slope.dat.data_ro[1] > 0.1


def near(V, point):
    """The owned nodes at a point; on other ranks none."""
    W = VectorFunctionSpace(V.mesh(), "CG", 1)
    nodes = Function(W).interpolate(SpatialCoordinate(V.mesh())).dat.data_ro
    return np.linalg.norm(nodes - point, axis=1) < 1e-10


def test_changes_without_a_record_are_kept_as_they_were():
    V, u, v, *_ = square(COMM_WORLD)
    c, t = assemble(v * dx), Constant(1.0)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - t * c
    nonlinear = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    solver = femnn.NeuralVariationalSolver(nonlinear, solver_parameters=LU)
    continue_annotation()
    J = 0
    for step in range(3):
        c.dat.data_wo[:] *= 1.0 + step
        t.assign(2.0 + step)
        solver.solve()
        J += femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    Jhat(kappa.weights.like(1.1 * kappa.weights.vector))
    assert Jhat(kappa.weights) == pytest.approx(float(J), rel=1e-10)


def test_a_cofunction_as_control():
    """pyadjoint gives the derivative as the Riesz representative only."""
    V, u, v, x, y = square(COMM_WORLD)
    c = assemble((1 + x) * v * dx)
    continue_annotation()
    femnn.solve(problem(V, u, 2 * c) == 0, u, DirichletBC(V, x, 1), solver_parameters=LU)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    gradient = Jhat.derivative(apply_riesz=True).riesz_representation("L2")
    h, values = assemble(sin(3 * x + y) * v * dx), []
    for size in (1e-4, -1e-4):
        moved = c.copy(deepcopy=True)
        moved.dat.data_wo[:] += size * h.dat.data_ro
        values.append(Jhat(moved))
    change = assemble(action(h, gradient))
    assert change == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-6)
    assert abs(gradient.dat.data_ro[DirichletBC(V, x, 1).nodes]).max() < 1e-14


def test_equal_calls_share_a_solver():
    V, u, v, x, _ = square(COMM_WORLD)
    c, other = assemble(v * dx), assemble(x * v * dx)
    kappa, dt = femnn.NeuralCoefficient(law(), u), Constant(0.3)
    F = kappa * inner(grad(u), grad(v)) * dx
    bc = DirichletBC(V, 0, 1)
    continue_annotation()
    for residual in (F - c, F - c, F - dt * c, F - dt * c, F + c, F - other, F):
        femnn.solve(residual == 0, u, bc)
    pause_annotation()
    solvers = [block.solves for block in get_working_tape().get_blocks()]
    assert [solvers.index(s) for s in solvers] == [0, 0, 2, 2, 4, 5, 6]


@pytest.mark.parametrize("levels", ["h", "p"])
def test_multigrid(levels):
    """Nonlinear multigrid restricts Cofunctions; polynomial multigrid passes them on."""
    mesh = MeshHierarchy(UnitSquareMesh(4, 4), 1)[-1]
    options = {"h": FAS, "p": {**P1PC, "pmg_mg_coarse_pc_type": "lu"}}[levels]
    V = FunctionSpace(mesh, "CG", 1 if levels == "h" else 2)
    found = []
    for parameters in (LU, options):
        u, v, f = Function(V), TestFunction(V), Function(V).assign(5.0)
        x, _ = SpatialCoordinate(mesh)
        continue_annotation()
        c = femnn.assemble(f**2 * v * dx)
        bc = DirichletBC(V, x, 1)
        femnn.solve(problem(V, u, 0.3 * c) == 0, u, bc, solver_parameters=parameters)
        J = femnn.assemble(u**2 * dx)
        pause_annotation()
        Jhat = ReducedFunctional(J, Control(f))
        value = Jhat(Function(V).assign(4.0))
        found.append([value, *Jhat.derivative().dat.data_ro])
    assert np.allclose(found[1], found[0], rtol=1e-7, atol=1e-9)


def test_what_is_not_assembled_is_an_error():
    V, u, v, *_ = square(COMM_WORLD)
    c = assemble(v * dx)
    with pytest.raises(NotImplementedError, match=r"a \w+ stands .* write assemble\(...\) of it"):
        femnn.solve(problem(V, u, c) + interpolate(v, c) == 0, u)
    other = Cofunction(FunctionSpace(V.mesh(), "CG", 2).dual())
    with pytest.raises(ValueError, match="wanted the dual of the unknown's space"):
        femnn.solve(problem(V, u, other) == 0, u)
    with pytest.raises(TypeError, match="F is a Cofunction and not a form"):
        femnn.solve(c == 0, u)


# Recorded linear forms.


@model("f", "c", "weights")
def field(comm=MPI.COMM_WORLD):
    """A functional of a Cofunction that is assembled from a network, a field and a Constant."""
    V, _, v, x, y = square(comm)
    f, c = Function(V, name="f").interpolate(1 + x * y), Constant([0.7, 1.2], name="c")
    kappa = femnn.NeuralCoefficient(law(2), f, c[1] * x)
    total = Cofunction(V.dual())
    total.assign(femnn.assemble(kappa * c[0] ** 2 * f**2 * v * dx))
    second = femnn.assemble(f**3 * v * ds)
    w = Function(V)
    mass = TrialFunction(V) * v * dx
    femnn.solve(mass == total - 2 * second, w, solver_parameters=LU)
    return femnn.assemble(w**2 * dx), [f, c, kappa.weights]


def test_derivatives_of_linear_forms():
    for found in Recording(field).accuracy(*field.controls):
        check(found)


@pytest.mark.parallel([2])
def test_derivatives_of_linear_forms_are_the_same_on_ranks():
    numbers, _ = measured(field, MPI.COMM_WORLD)
    alone, _ = on_rank_zero(MPI.COMM_WORLD, measured, field, MPI.COMM_SELF)
    assert numbers == pytest.approx(alone, rel=1e-9)


def test_linear_forms_are_those_of_firedrake_and_of_their_time():
    V, u, v, x, _ = square(COMM_WORLD)
    f, t, c = Function(V).interpolate(1 + x), Constant(0.5), Cofunction(V.dual())
    form = sin(t * f) * v * dx
    continue_annotation()
    J = 0
    for step in range(3):
        with stop_annotating():
            t.assign(1.0 + step)
        assert femnn.assemble(form, tensor=c) is c
        assert np.allclose(c.dat.data_ro, assemble(form, annotate=False).dat.data_ro, rtol=1e-14)
        femnn.solve(problem(V, u, c) == 0, u, DirichletBC(V, 0, 1), solver_parameters=LU)
        J += femnn.assemble(u**2 * dx)
    pause_annotation()
    assert type(femnn.assemble(form)) is Cofunction
    Jhat = ReducedFunctional(J, Control(f))
    Jhat(Function(V).assign(2.0))
    assert Jhat(f) == pytest.approx(float(J), rel=1e-10)


@pytest.mark.parametrize("kind", [Function, Cofunction])
def test_a_cofunction_as_functional(kind):
    V, _, v, x, y = square(COMM_WORLD)
    f, w = Function(V).interpolate(1 + x), Function(V).interpolate(y)
    continue_annotation()
    c = femnn.assemble(f**2 * v * dx)
    pause_annotation()
    Jhat = ReducedFunctional(c, Control(f))
    given = w if kind is Function else Cofunction(V.dual(), val=w.dat)
    got = Jhat.derivative(adj_input=given)
    assert np.allclose(got.dat.data_ro, assemble(2 * f * w * v * dx).dat.data_ro, rtol=1e-13)
