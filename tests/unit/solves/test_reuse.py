"""What solves start from and keep: guesses, matrices, adjoints."""

import contextlib
import gc
import importlib
import io
import weakref

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import PETSc

import femnn
from tests.unit.solves.diffusion import (
    LU,
    check_same,
    mlp,
    poisson,
    taylor_order,
    values_and_gradients,
)

solve_module = importlib.import_module("femnn.variational.solve")


def test_cold_start_gives_the_same(V, exact):
    Jhat, kappa, solver, *_ = poisson(V, warm_start=False)
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-8)
    Jhat(kappa.weights)
    cold = solver.snes.getIterationNumber()
    Jhat(kappa.weights)
    assert solver.snes.getIterationNumber() == cold > 1
    Jhat, kappa, solver, *_ = poisson(V)
    Jhat(kappa.weights)
    Jhat(kappa.weights)
    assert solver.snes.getIterationNumber() <= 1


def test_a_warm_start_that_fails_is_followed_by_a_cold_one(V, exact):
    Jhat, kappa, solver, *_ = poisson(V)
    state, forward, guesses = solver.state, solver._solves.forward, []
    run = forward.run

    def fails_first():
        guesses.append(state.unknown.dat.data_ro.copy())
        if len(guesses) == 1:
            state.unknown.assign(np.nan)
            raise ConvergenceError("from there it does not converge")
        run()

    forward.run = fails_first
    value = Jhat(kappa.weights)
    assert value == pytest.approx(exact[True][0][0], rel=1e-10)
    assert len(guesses) == 2
    assert guesses[0].any()
    assert not guesses[1].any(), "the second try does not start from the recorded guess"


@pytest.mark.parametrize("shift", [-17, -20, -25])
def test_a_warm_start_from_an_absurd_state_is_as_exact_as_a_cold_one(V, shift):
    values = {}
    for warm in (False, True):
        get_working_tape().clear_tape()
        Jhat, kappa, *_ = poisson(V, solver_parameters={}, warm_start=warm)
        absurd = kappa.weights.vector.copy()
        absurd[-1] += shift  # a conductivity near zero: u is up to 1e10 times as large
        huge = Jhat(kappa.weights.like(absurd))
        values[warm] = Jhat(kappa.weights)
        assert huge > 1e3 * values[warm]
    assert values[True] == pytest.approx(values[False], rel=1e-7)


@pytest.mark.parametrize(
    "parameters",
    [{"snes_type": "ksponly"}, {"snes_max_it": 1, "snes_convergence_test": "skip"}],
    ids=str,
)
def test_a_fixed_number_of_iterations_is_replayed_from_the_recorded_guess(V, parameters):
    Jhat, kappa, *_ = poisson(V, solver_parameters=parameters)
    recorded = float(Jhat.functional)
    values = [Jhat(kappa.weights.like(factor * kappa.weights.vector)) for factor in (1, 1.5, 1)]
    assert values[0] == values[2] == pytest.approx(recorded, rel=1e-14)


def test_a_hessian_without_its_gradient_is_an_error(V):
    Jhat, kappa, *_ = poisson(V)
    direction = kappa.weights.like(kappa.weights.vector)
    Jhat.derivative()
    Jhat.hessian(direction)
    Jhat(kappa.weights.like(1.1 * kappa.weights.vector))
    with pytest.raises(RuntimeError, match=r"not derivative\(\) since the functional was eval"):
        Jhat.hessian(direction)
    Jhat.derivative()
    Jhat.hessian(direction)


def test_a_hessian_after_another_functionals_gradient_is_an_error(V):
    """Two functionals of one model: the adjoint values on the tape are the other one's."""
    _, kappa, *_ = poisson(V)
    (u,) = kappa.operands
    continue_annotation()
    losses = [femnn.assemble(u**2 * dx), femnn.assemble(kappa**2 * dx)]
    pause_annotation()
    Jhat, other = (ReducedFunctional(J, Control(kappa.weights)) for J in losses)
    direction = kappa.weights.like(kappa.weights.vector)
    Jhat.derivative()
    expected = Jhat.hessian(direction).vector
    other.derivative()
    with pytest.raises(RuntimeError, match=r"one of another functional since\. Call derivative"):
        Jhat.hessian(direction)
    Jhat.derivative()
    assert np.array_equal(Jhat.hessian(direction).vector, expected)


@contextlib.contextmanager
def counted(solver):
    """How often the solver's tangent is assembled."""
    context, calls = solver.state.solver._ctx, []
    assemble_tangent = context._assemble_jac
    context._assemble_jac = lambda *args: calls.append(args) or assemble_tangent(*args)
    try:
        yield calls
    finally:
        context._assemble_jac = assemble_tangent


def factorisations():
    PETSc.Log.begin()
    return PETSc.Log.Event("MatLUFactorNum").getPerfInfo()["count"]


def test_the_adjoint_of_a_linear_problem_uses_the_forward_matrix(V, exact):
    Jhat, kappa, solver, *_ = poisson(V, nonlinear=False)
    with counted(solver) as calls:
        before = factorisations()
        gradient = Jhat.derivative().vector
        assert calls == []
        assert factorisations() == before
        assert np.allclose(gradient, exact[False][0][1], rtol=1e-9, atol=1e-13)
        Jhat(kappa.weights.like(kappa.weights.vector + 0.3))
        assert len(calls) == 1, "other weights need another matrix"
        assert factorisations() == before + 1
        gradient = Jhat.derivative().vector
        assert len(calls) == 1
        assert factorisations() == before + 1
        assert np.allclose(gradient, exact[False][1][1], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("change_at", [None, 2])
def test_time_steps_with_the_same_matrix_assemble_it_once(change_at, V):
    x, y = SpatialCoordinate(V.mesh())
    net = femnn.MLP(2, 4, 1, output="softplus", seed=3)
    trajectories, bc = [], DirichletBC(V, 0, "on_boundary")
    for ours in (True, False):
        u, un, v, dt = Function(V), Function(V), TestFunction(V), Constant(0.1)
        un.interpolate(sin(pi * x) * sin(pi * y))
        k = femnn.NeuralCoefficient(net, x, y) if ours else femnn.to_ufl(net, x, y)[0]
        F = (u - un) / dt * v * dx + k * inner(grad(u), grad(v)) * dx(degree=4) - 10 * v * dx
        if ours:
            problem = femnn.NeuralVariationalProblem(F, u, bc)
            solver = femnn.NeuralVariationalSolver(problem, solver_parameters=LU)
        else:
            problem = NonlinearVariationalProblem(F, u, bc)
            solver = NonlinearVariationalSolver(problem, solver_parameters=LU)
        with counted(solver) if ours else contextlib.nullcontext() as calls:
            before = factorisations()
            for step in range(4):
                if step == change_at:
                    dt.assign(0.02)
                solver.solve()
                un.assign(u)
                trajectories.append(u.dat.data_ro.copy())
            if ours:
                wanted = 1 if change_at is None else 2
                assert len(calls) == wanted
                assert factorisations() == before + wanted
    for got, expected in zip(trajectories[:4], trajectories[4:], strict=True):
        assert np.allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("change_at", [None, 2])
def test_adjoints_of_time_steps_with_changing_steps(change_at, V):
    """One matrix for all steps or two: the gradient is right in both cases."""
    x, y = SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(mlp(2), x, y)
    u, un, v, dt = Function(V), Function(V), TestFunction(V), Constant(0.1)
    F = (u - un) / dt * v * dx + kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    continue_annotation()
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=LU)
    J = 0
    for step in range(4):
        if step == change_at:
            dt.assign(0.02)
        solver.solve()
        un.assign(u)
        J += assemble((u - x) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    assert taylor_order(Jhat, kappa) > 1.95
    Jhat(kappa.weights)
    with counted(solver) as calls:
        Jhat.derivative()
        # the matrix of the last step is there; going back, that of the first steps is not
        assert len(calls) == (0 if change_at is None else 1)


@pytest.mark.parametrize("source", [1.0, 0.0])
def test_no_iteration_leaves_no_old_matrix(V, source):
    """A problem with no source is solved by its initial guess; the tangent is still the present.

    The solution is proportional to f / k, so the derivative at f = 0 is to 1 / k.
    """
    f, k, u, v = Function(V).assign(source), Function(V).assign(1.0), Function(V), TestFunction(V)
    F = k * inner(grad(u), grad(v)) * dx - f * v * dx
    continue_annotation()
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    Jhat = ReducedFunctional(femnn.assemble((u - 1) ** 2 * dx), [Control(f), Control(k)])
    pause_annotation()
    at_zero = []
    for factor in (3.0, 1.0):
        assert Jhat([Function(V), Function(V).assign(factor)]) == pytest.approx(1.0)
        of_source, of_factor = Jhat.derivative()
        at_zero.append(of_source.dat.data_ro.copy())
        assert not of_factor.dat.data_ro.any()
    assert np.linalg.norm(at_zero[1]) > 1e-4
    assert np.allclose(3 * at_zero[0], at_zero[1], rtol=1e-12, atol=1e-15)
    point = [Function(V).assign(0.5), Function(V).assign(2.0)]
    with contextlib.redirect_stdout(io.StringIO()):
        order = taylor_test(Jhat, point, [Function(V).assign(1.0), Function(V).assign(1.0)])
    assert order > 1.95


def loop(V, kept, linear=False, value=0.0):
    """Four steps by ``femnn.solve``, with forms and conditions made anew in each, or a solver."""
    get_working_tape().clear_tape()
    x, y = SpatialCoordinate(V.mesh())
    u, un, v, dt = Function(V), Function(V), TestFunction(V), Constant(0.1)
    kappa = femnn.NeuralCoefficient(mlp(2 if linear else 1), *((x, y) if linear else (un,)))
    trial = TrialFunction(V) if linear else u
    continue_annotation()
    J, solver = 0, None
    for _ in range(4):
        F = (trial - un) / dt * v * dx + kappa * inner(grad(trial), grad(v)) * dx - 10 * v * dx
        bc = DirichletBC(V, value * (1 + x), "on_boundary")
        if kept and linear:
            problem = femnn.NeuralVariationalProblem.linear(lhs(F), rhs(F), u, bc)
        elif kept:
            problem = femnn.NeuralVariationalProblem(F, u, bc)
        if kept:
            solver = solver or femnn.NeuralVariationalSolver(problem)
            solver.solve()
        else:
            femnn.solve(lhs(F) == rhs(F) if linear else F == 0, u, bc)
        un.assign(u)
        J += femnn.assemble((u - x) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    solves = {id(b.solves) for b in get_working_tape().get_blocks() if hasattr(b, "solves")}
    return Jhat, kappa, solves


@pytest.mark.parametrize("value", [0, 0.1], ids=["zero", "expression"])
@pytest.mark.parametrize("linear", [False, True], ids=["F == 0", "a == L"])
def test_solve_in_a_loop_keeps_one_solver(V, linear, value):
    kept, kappa, _ = loop(V, True, linear, value)
    expected = values_and_gradients(kept, kappa)
    Jhat, kappa, solves = loop(V, False, linear, value)
    assert len(solves) == 1
    check_same(values_and_gradients(Jhat, kappa), expected, 1e-12)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("linear", [False, True], ids=["F == 0", "a == L"])
def test_without_a_tape_a_solver_is_kept_from_the_second_call_on(V, linear, monkeypatch):
    gc.freeze()  # what other tests have left is not looked through at each collection
    made, make = [], solve_module._make

    def noted(*args):
        solves = make(*args)
        made.append(weakref.ref(solves))
        return solves

    monkeypatch.setattr(solve_module, "_make", noted)
    u, un, v = Function(V), Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), un if linear else u)
    trial, bc = TrialFunction(V) if linear else u, DirichletBC(V, 0, "on_boundary")
    F = (trial - un) * v * dx + kappa * inner(grad(trial), grad(v)) * dx - 10 * v * dx
    equation = lhs(F) == rhs(F) if linear else F == 0
    femnn.solve(equation, u, bc)
    un.assign(u)
    gc.collect()
    assert made[0]() is None, "what is solved once is kept"
    for _ in range(3):
        femnn.solve(equation, u, bc)
        un.assign(u)
        gc.collect()
    assert len(made) == 2
    expected = u.dat.data_ro.copy()
    u.assign(0)
    un.assign(0)
    if linear:
        problem = femnn.NeuralVariationalProblem.linear(lhs(F), rhs(F), u, bc)
    else:
        problem = femnn.NeuralVariationalProblem(F, u, bc)
    solver = femnn.NeuralVariationalSolver(problem)
    for _ in range(4):
        solver.solve()
        un.assign(u)
    # A solver's first linear solve goes another way than the next ones.
    np.testing.assert_allclose(u.dat.data_ro, expected, rtol=1e-12, atol=1e-14)
    del u, F, trial, equation, problem, solver, kappa
    gc.collect()
    assert made[1]() is None, "what the unknown keeps outlives it"


def test_solve_has_another_solver_where_the_call_differs(V):
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    bc, seen = DirichletBC(V, 0, "on_boundary"), []

    def solved(F=None, bcs=None, **options):
        F = kappa * inner(grad(u), grad(v)) * dx - v * dx if F is None else F
        femnn.solve(F == 0, u, bc if bcs is None else bcs, **options)
        seen.append(get_working_tape().get_blocks()[-1].solves)
        return u.dat.data_ro.max()

    continue_annotation()
    first = solved()
    assert solved(bcs=[DirichletBC(V, 0.0, "on_boundary")]) == pytest.approx(first, rel=1e-6)
    assert seen[0] is seen[1]
    assert solved(solver_parameters=LU) == pytest.approx(first, rel=1e-6)
    assert solved(kappa * inner(grad(u), grad(v)) * dx - 2 * v * dx) > 1.5 * first
    assert solved(bcs=DirichletBC(V, 1, "on_boundary")) == pytest.approx(1 + first, rel=0.2)
    bc.set_value(2.0)  # the first solver holds this condition
    assert solved(bcs=DirichletBC(V, 0, "on_boundary")) == pytest.approx(first, rel=1e-6)
    assert solved() > 2
    pause_annotation()
    assert len({id(s) for s in seen}) == len(seen) - 1
