"""Variational inequalities: derivatives at solutions with unknowns at their bounds."""

from functools import partial

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import PETSc
from mpi4py import MPI

import femnn
from femnn.coefficient.coefficient import neural_coefficients
from femnn.parallel import on_rank_zero
from tests.unit import models
from tests.unit.models import law
from tests.unit.solves.test_multigrid import MG, P1PC
from tests.verification.derivatives import Point, dot_of, numbers_of

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-13}
METHODS = ["vinewtonrsls", "vinewtonssls"]


square = partial(models.square, n=8)


def unbounded(V, sign=1):
    return Function(V).assign(sign * PETSc.INFINITY)


def obstacle(comm=MPI.COMM_WORLD, method="vinewtonrsls"):
    """A membrane between two obstacles, with a law of its own value."""
    V, u, v, x, y = square(comm)
    f = Function(V, name="f").interpolate(60 * (x - 0.5))
    lower = Function(V, name="lower").interpolate(-0.2 - 0.1 * y)
    upper = Function(V, name="upper").interpolate(0.25 + 0.1 * y)
    g = Function(V, name="g").interpolate(0.05 * y)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    options = {"solver_parameters": {"snes_type": method, **TIGHT}, "bounds": (lower, upper)}
    femnn.solve(F == 0, u, DirichletBC(V, g, (1, 2)), **options)
    assert held(u, lower, upper) > 10
    return femnn.assemble(u**2 * dx + x * u * dx), [kappa.weights, f, lower, upper, g]


def semismooth(comm=MPI.COMM_WORLD):
    return obstacle(comm, "vinewtonssls")


def components(comm=MPI.COMM_WORLD):
    """Vectors, one component bounded below, the other above; the law of a bound is a network."""
    V, _, _, x, y = square(comm, n=6)
    W = VectorFunctionSpace(V.mesh(), "CG", 1)
    u, v = Function(W, name="u"), TestFunction(W)
    a, b = Constant(0.2, name="a"), Function(V, name="b").interpolate(1 + x)
    depth = femnn.NeuralCoefficient(law(2), b, y, space=V).update()
    lower, upper = unbounded(W, -1), unbounded(W)
    lower.assign(Function(W).interpolate(as_vector([-1e10, -0.3])))
    upper.assign(Function(W).interpolate(as_vector([0.2, 1e10])))
    kappa = femnn.NeuralCoefficient(law(), dot(u, u))
    F = kappa * inner(grad(u), grad(v)) * dx - depth * inner(as_vector([30 + a, -40]), v) * dx
    options = {"solver_parameters": {"snes_type": "vinewtonrsls", **TIGHT}}
    conditions = DirichletBC(W, as_vector([0, 0]), (1, 4))
    femnn.solve(F == 0, u, conditions, bounds=(lower, upper), **options)
    assert held(u, lower, upper) > 10
    return femnn.assemble(inner(u, u) * dx), [kappa.weights, depth.weights, b, lower, upper]


def mixed(comm=MPI.COMM_WORLD):
    """A part of a mixed unknown."""
    V, _, _, x, _ = square(comm, n=6)
    W = V * V
    w, (v, q) = Function(W, name="w"), TestFunctions(W)
    u, p = split(w)
    f, lower = Function(V, name="f").assign(-40.0), unbounded(W, -1)
    lower.sub(0).interpolate(-0.2 - 0.1 * x)
    kappa = femnn.NeuralCoefficient(law(), p)
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    F += inner(grad(p), grad(q)) * dx + (p - u**2) * q * dx
    problem = femnn.NeuralVariationalProblem(F, w, DirichletBC(W.sub(0), 0, "on_boundary"))
    parameters = {"snes_type": "vinewtonrsls", **TIGHT}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=parameters)
    solver.solve(bounds=(lower, unbounded(W)))
    assert held(w, lower, lower) > 4
    return femnn.assemble(u**2 * dx + p * dx), [kappa.weights, f]


def loop(comm=MPI.COMM_WORLD):
    """Linear steps in time: more and more unknowns are at the bound, which moves."""
    V, u, v, x, y = square(comm)
    un, w = Function(V, name="un"), TrialFunction(V)
    start, f = Function(V, name="start").interpolate(0.05 * x), Function(V).assign(-10.0)
    kappa = femnn.NeuralCoefficient(law(2), x, y)
    a = w / 0.02 * v * dx + kappa * inner(grad(w), grad(v)) * dx
    problem = femnn.NeuralVariationalProblem.linear(
        a, (un / 0.02 + f) * v * dx, u, DirichletBC(V, 0, "on_boundary")
    )
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters={"snes_type": METHODS[0]})
    lower, depth = Function(V), Function(V, name="depth").interpolate(0.2 + 0.2 * y)
    un.assign(start)
    J, numbers = 0.0, set()
    for step in range(4):
        lower.assign(-(1 - 0.1 * step) * depth)
        solver.solve(bounds=(lower, unbounded(V)))
        un.assign(u)
        J += femnn.assemble(u**2 * dx)
        numbers.add(held(u, lower, lower))
    assert len(numbers) > 2
    return J, [kappa.weights, f, start, depth]


MODELS = [obstacle, semismooth, components, mixed, loop]


def held(u, lower, upper):
    """How many unknowns are at a bound, on all ranks."""
    pairs = zip(u.dat, lower.dat, upper.dat, strict=True)
    at = [np.isclose(x.data_ro, [a.data_ro, b.data_ro], atol=1e-8).any(0) for x, a, b in pairs]
    return u.comm.allreduce(sum(int(a.sum()) for a in at))


def recorded(model, comm=MPI.COMM_WORLD):
    """A functional of all controls, and a point beside the record."""
    get_working_tape().clear_tape()
    continue_annotation()
    J, controls = model(comm)
    pause_annotation()
    rng = np.random.default_rng(0)
    Jhat = ReducedFunctional(J, [Control(c) for c in controls])
    assert Jhat([c._ad_copy() for c in controls]) == pytest.approx(float(J), rel=1e-8)
    values, directions = zip(*(point(c, rng) for c in controls), strict=True)
    return Jhat, Point(list(values), list(directions))


def point(control, rng):
    """A value beside the control's, and a direction; infinite bounds stay."""
    if isinstance(control, femnn.Weights):
        vector = rng.standard_normal(len(control))
        return control.like(1.02 * control.vector), control.like(vector)
    V = control.function_space()
    x, direction = SpatialCoordinate(V.mesh()), Function(V)
    wave = cos(3 * x[0] + 2 * x[1])
    direction.interpolate(wave if control.ufl_shape == () else as_vector([wave, 1 - wave]))
    value = control.copy(deepcopy=True)
    finite = abs(value.dat.data_ro) < 1e9
    direction.dat.data_wo[...] *= finite
    value.dat.data_wo[finite] *= 1.01
    return value, direction


def check_differences(Jhat, values, direction, step=1e-6):
    """Compare with central differences, so small that the same unknowns stay at their bounds."""

    def at(size):
        moved = [v._ad_add(d._ad_mul(size)) for v, d in zip(values, direction, strict=True)]
        return Jhat(moved), dot_of(direction, Jhat.derivative())

    (up, slope_up), (down, slope_down), (_, slope) = at(step), at(-step), at(0.0)
    assert Jhat.tlm(direction) == pytest.approx(slope, rel=1e-9)
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-5)
    curvature = dot_of(direction, Jhat.hessian(direction))
    assert curvature == pytest.approx((slope_up - slope_down) / (2 * step), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_derivatives_for_all_controls(model):
    Jhat, at = recorded(model)
    check_differences(Jhat, at.values, at.direction)


def test_derivatives_for_each_control():
    Jhat, at = recorded(obstacle)
    for i in range(len(at.values)):
        direction = [d._ad_mul(float(i == j)) for j, d in enumerate(at.direction)]
        check_differences(Jhat, at.values, direction)


@pytest.mark.parallel([2])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_the_same_on_ranks(model):
    numbers, _ = numbers_of(*recorded(model))
    alone, _ = on_rank_zero(MPI.COMM_WORLD, lambda: numbers_of(*recorded(model, MPI.COMM_SELF)))
    assert numbers == pytest.approx(alone, rel=1e-7, abs=1e-12)


@pytest.fixture
def membrane():
    V, u, v, x, _ = square(COMM_WORLD, n=5)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx + 10 * v * dx
    return u, F, DirichletBC(V, x, "on_boundary")


@pytest.mark.parametrize("method", METHODS)
def test_bounds_that_are_not_reached_change_nothing(membrane, method):
    u, F, bc = membrane
    V, found = u.function_space(), []
    far = Function(V).assign(-100.0), Function(V).assign(100.0)
    for bounds, kind in ((far, method), (None, method), (None, "newtonls")):
        u.assign(0)
        femnn.solve(F == 0, u, bc, bounds=bounds, solver_parameters={"snes_type": kind, **TIGHT})
        found.append(u.dat.data_ro.copy())
    assert np.allclose(found[0], found[2], atol=1e-10)
    assert np.allclose(found[1], found[2], atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_solver_with_and_without_bounds_in_turn(membrane, method):
    u, F, bc = membrane
    V = u.function_space()
    problem = femnn.NeuralVariationalProblem(F, u, bc)
    parameters = {"snes_type": method, **TIGHT}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=parameters)
    weights = problem.implicit[0].weights
    bounds = Function(V).assign(-0.05), Function(V).assign(10.0)
    continue_annotation()
    J = []
    for given in (bounds, None, bounds, None):
        u.assign(0, annotate=False)
        solver.solve(bounds=given)
        J.append(femnn.assemble(u**2 * dx))
    pause_annotation()
    assert J[0] == pytest.approx(float(J[2]), rel=1e-10)
    assert J[1] == pytest.approx(float(J[3]), rel=1e-10)
    assert abs(J[0] - J[1]) > 1e-3
    both = ReducedFunctional(J[0] + J[1], Control(weights))
    both(weights.like(1.1 * weights.vector))
    assert both(weights) == pytest.approx(float(J[0] + J[1]), rel=1e-9)
    direction = weights.like(np.ones(len(weights)))
    gradient, step = both.derivative(), 1e-5
    ends = [both(weights.like(weights.vector + size)) for size in (step, -step)]
    assert direction._ad_dot(gradient) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_a_replay_starts_from_the_last_solution(membrane):
    u, F, bc = membrane
    V = u.function_space()
    problem = femnn.NeuralVariationalProblem(F, u, bc)
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters={"snes_type": METHODS[0]})
    weights = problem.implicit[0].weights
    continue_annotation()
    solver.solve(bounds=(Function(V).assign(-0.05), unbounded(V)))
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(weights))
    for _ in range(2):
        assert Jhat(weights) == pytest.approx(float(J), rel=1e-8)
        assert solver.snes.getIterationNumber() <= 1
    assert solver.snes.getTolerances()[:2] == (1e-8, 1e-50)


ERRORS = {
    "method": (ValueError, "snes_type': 'vinewtonrsls'"),
    "one": (TypeError, r"wanted \(lower, upper\), both Functions"),
    "numbers": (TypeError, r"wanted \(lower, upper\), both Functions"),
    "space": (ValueError, "high is on .*, not"),
    "crossed": (ValueError, "the lower bound is above the upper one"),
    "boundary": (ValueError, "a boundary value is outside of them"),
    "nan": (ValueError, "or one is NaN"),
    "restrict": (NotImplementedError, "restrict=True: leave out one"),
}


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("what", ERRORS)
def test_bounds_that_cannot_be_are_an_error(membrane, what):
    u, F, bc = membrane
    V = u.function_space()
    low, high = Function(V).assign(-0.1), Function(V).assign(2.0)
    nan = Function(V).assign(np.nan if V.mesh().comm.rank == 0 else -1.0)
    bounds = {
        "one": low,
        "numbers": (-0.1, 2.0),
        "space": (low, Function(FunctionSpace(V.mesh(), "CG", 2), name="high")),
        "crossed": (high, low),
        "boundary": (Function(V).assign(0.5), high),
        "nan": (nan, high),
    }.get(what, (low, high))
    options = {"restrict": True} if what == "restrict" else {}
    options["solver_parameters"] = {"snes_type": "newtonls" if what == "method" else METHODS[0]}
    error, message = ERRORS[what]
    with pytest.raises(error, match=message):
        femnn.solve(F == 0, u, bc, bounds=bounds, **options)
    assert not u.dat.data_ro.any()


def test_a_solution_that_is_too_far_from_a_bound_has_no_derivative(membrane):
    u, F, bc = membrane
    V, options = u.function_space(), {"solver_parameters": {"snes_type": METHODS[0], **TIGHT}}
    continue_annotation()
    femnn.solve(F == 0, u, bc, bounds=(Function(V).assign(-0.05), unbounded(V)), **options)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(neural_coefficients(F)[0].weights))
    gradient = Jhat.derivative().vector
    assert np.linalg.norm(gradient) > 1e-5
    solution = u.block_variable.checkpoint
    solution.assign(solution + 1e-6)
    with pytest.raises(RuntimeError, match="solve more exactly"):
        Jhat.derivative()


@pytest.mark.parametrize(
    "parameters", [MG, {**P1PC, "pmg_mg_coarse_pc_type": "lu"}], ids=["h", "p"]
)
def test_multigrid_does_not_know_what_bounds_hold(parameters):
    V = FunctionSpace(MeshHierarchy(UnitSquareMesh(4, 4), 1)[-1], "CG", 2)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx + 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    options = {"solver_parameters": {"snes_type": METHODS[0], **TIGHT}}
    options["adjoint_solver_parameters"] = parameters
    solver = femnn.NeuralVariationalSolver(problem, **options)
    continue_annotation()
    solver.solve(bounds=(Function(V).assign(-0.3), unbounded(V)))
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    with pytest.raises(NotImplementedError, match="without Firedrake's multigrid"):
        ReducedFunctional(J, Control(kappa.weights)).derivative()
