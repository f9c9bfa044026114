"""Solves: failures and what they say, linear solvers, tangents, reuse of matrices."""

import contextlib
import io

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import PETSc
from mpi4py import MPI

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
LU = {"ksp_type": "preonly", "pc_type": "lu", **TIGHT}


class Broken(torch.nn.Module):
    """Not a number from some input on."""

    def forward(self, x):
        return torch.where(x > 0.1, float("nan"), 1 + x**2)


@pytest.fixture(scope="module")
def V():
    return FunctionSpace(UnitSquareMesh(8, 8), "CG", 1)


def mlp(n_inputs=1, n_outputs=1, seed=1, dtype=torch.float64):
    return femnn.MLP(n_inputs, 8, n_outputs, output="softplus", seed=seed, dtype=dtype)


def poisson(V, net=None, nonlinear=True, tangent=None, **options):
    """kappa(u) or kappa(x) in a diffusion with advection: value, gradient and functional."""
    get_working_tape().clear_tape()
    net = mlp(1 if nonlinear else 2) if net is None else net
    u, v, f = Function(V, name="u"), TestFunction(V), Function(V, name="f").assign(10.0)
    x, y = SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(net, *((u,) if nonlinear else (x, y)))
    F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    if nonlinear:
        F += dot(as_vector([1.0, 0.5]), grad(u)) * v * dx
    J = None if tangent is None else tangent(kappa, u, v)
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, x, "on_boundary"), J=J)
    options = {"solver_parameters": LU, **options}
    continue_annotation()
    solver = femnn.NeuralVariationalSolver(problem, **options)
    solver.solve()
    loss = assemble((u - x * y) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(loss, Control(kappa.weights))
    return Jhat, kappa, solver, u, f


def recorded_blocks():
    return [type(block).__name__ for block in get_working_tape().get_blocks()]


def values_and_gradients(Jhat, kappa):
    """At the weights that were recorded and at others."""
    results = []
    for shift in (0.0, 0.3):
        value = Jhat(kappa.weights.like(kappa.weights.vector + shift))
        results.append((value, Jhat.derivative().vector))
    return results


def check_same(results, expected, tolerance):
    for (value, gradient), (value0, gradient0) in zip(results, expected, strict=True):
        assert value == pytest.approx(value0, rel=tolerance)
        assert np.linalg.norm(gradient - gradient0) < tolerance * np.linalg.norm(gradient0)
        assert np.linalg.norm(gradient0) > 1e-4


def taylor_order(Jhat, kappa):
    rng = np.random.default_rng(0)
    here = kappa.weights.like(kappa.weights.vector + 0.2)
    direction = kappa.weights.like(rng.standard_normal(len(kappa.weights)))
    with contextlib.redirect_stdout(io.StringIO()):
        return taylor_test(Jhat, here, direction)


# Failures


def test_a_solve_that_does_not_converge(V):
    u, v = Function(V).assign(0.25), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    options = {"snes_max_it": 1, **TIGHT}
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
    continue_annotation()
    with pytest.raises(ConvergenceError) as caught:
        solver.solve()
    pause_annotation()
    text = str(caught.value)
    assert "DIVERGED_MAX_IT" in text
    assert "The unknown keeps the value it had. Try a better initial guess" in text
    assert "'snes_linesearch_type': 'bt'" in text
    assert "NaN" not in text
    assert (u.dat.data_ro == 0.25).all()
    assert "SolveBlock" not in recorded_blocks()
    solver.snes.setTolerances(max_it=50)
    solver.solve()
    assert not (u.dat.data_ro == 0.25).all()


def test_a_network_that_gives_nan_is_named(V):
    u, v = Function(V), TestFunction(V)
    law = femnn.NeuralCoefficient(Broken(), u, name="conductivity")
    F = law * inner(grad(u), grad(v)) * dx - 10 * v * dx
    with pytest.raises(ConvergenceError, match="At the last iterate conductivity gave NaN"):
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    assert (u.dat.data_ro == 0).all()


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("where", ["a field", "a constant", "the boundary"])
def test_nan_in_the_data_is_named(where):
    comm = MPI.COMM_WORLD
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    u, v = Function(V), TestFunction(V)
    f, c, g = Function(V, name="heat"), Constant(1.0, name="scale"), Function(V)
    u.assign(0.5)
    if where == "a field":
        f.dat.data_wo[:] = np.nan if comm.rank == comm.size - 1 else 1.0  # on one rank only
    elif where == "a constant":
        c.assign(np.inf)
    elif where == "the boundary":
        g.assign(np.nan)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - c * f * v * dx
    bcs = [DirichletBC(V, 0, 1), DirichletBC(V, g, 3)]
    found = {"a field": "heat", "a constant": "scale", "the boundary": "the boundary values on"}
    with pytest.raises(ConvergenceError, match=f"NaN or infinite values .* in: {found[where]}"):
        femnn.solve(F == 0, u, bcs)
    assert (u.dat.data_ro == 0.5).all()


def test_the_unknown_with_nan_is_not_blamed_on_the_data(V):
    u, v = Function(V).assign(np.nan), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    with pytest.raises(ConvergenceError, match="gave NaN or infinity"):
        femnn.solve(kappa * inner(grad(u), grad(v)) * dx == 0, u)


def test_an_error_in_a_network_reaches_the_caller(V):
    class Fails(torch.nn.Module):
        fails = False

        def forward(self, x):
            if self.fails:
                raise OverflowError("too hot")
            return 1 + x**2

    u, v, net = Function(V), TestFunction(V), Fails()
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    net.fails = True
    with pytest.raises(OverflowError, match="too hot"):
        solver.solve()
    assert (u.dat.data_ro == 0).all()
    net.fails = False
    femnn.solve(F == 0, u, problem.bcs)
    assert u.dat.data_ro.max() > 0.1


def test_only_dirichlet_conditions(V):
    u, v = Function(V), TestFunction(V)
    F = femnn.NeuralCoefficient(mlp(), u) * inner(grad(u), grad(v)) * dx
    condition = EquationBC(u * v * ds == 0, u, 1)
    with pytest.raises(NotImplementedError, match="bcs holds a EquationBC: only DirichletBC"):
        femnn.solve(F == 0, u, bcs=[DirichletBC(V, 0, 2), condition])


@pytest.mark.parametrize("kind", ["bilinear", "functional", "expression", "zero", "equation"])
def test_the_residual_must_be_a_linear_form(kind, V):
    u, v, w = Function(V), TestFunction(V), TrialFunction(V)
    F = {
        "bilinear": lambda: w * v * dx,
        "functional": lambda: u * dx,
        "expression": lambda: u * v,
        "zero": lambda: 0,
        "equation": lambda: u * v * dx == 0,
    }[kind]()
    with pytest.raises(TypeError, match=r"F is .* and not a form with one test function: write"):
        femnn.NeuralVariationalProblem(F, u)


def test_wrong_equations_and_unknowns(V):
    u, v = Function(V), TestFunction(V)
    F = u * v * dx - v * dx
    with pytest.raises(TypeError, match="write the equation as F == 0, or as a == L"):
        femnn.solve(v * dx == F, u)
    with pytest.raises(TypeError, match="u is a Argument: the unknown must be a Function"):
        femnn.NeuralVariationalProblem(F, v)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    with pytest.raises(TypeError, match="u is a NeuralCoefficient: the unknown must be"):
        femnn.NeuralVariationalProblem(F, kappa)
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    with pytest.raises(TypeError, match=r"solve\(\) got the unknown keywords \['bounds'\]"):
        solver.solve(bounds=None)


def test_nothing_is_recorded_without_annotation(V):
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    bc = DirichletBC(V, 0, "on_boundary")
    femnn.solve(F == 0, u, bc)
    continue_annotation()
    femnn.solve(F == 0, u, bc, annotate=False)
    femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u, bc)).solve(annotate=False)
    assert get_working_tape().get_blocks() == []
    femnn.solve(F == 0, u, bc)
    assert recorded_blocks() == ["DirichletBCBlock", "SolveBlock"]
    pause_annotation()


# Linear solvers


@pytest.fixture(scope="module")
def exact(V):
    """Values and gradients with LU, for kappa(u) and kappa(x)."""
    results = {}
    for nonlinear in (True, False):
        Jhat, kappa, *_ = poisson(V, nonlinear=nonlinear)
        results[nonlinear] = values_and_gradients(Jhat, kappa)
        assert taylor_order(Jhat, kappa) > 1.95
    return results


@pytest.mark.parametrize(
    ("nonlinear", "parameters"),
    [
        (True, {"ksp_type": "gmres", "pc_type": "ilu"}),
        (True, {"ksp_type": "gmres", "pc_type": "gamg"}),
        (True, {"ksp_type": "bcgs", "pc_type": "jacobi"}),
        (True, {"ksp_type": "fgmres", "pc_type": "ilu"}),
        # with a loose tolerance gamg disturbs the boundary values, in Firedrake's solver too
        (False, {"ksp_type": "cg", "pc_type": "gamg", "ksp_rtol": 1e-10}),
        (False, {"ksp_type": "cg", "pc_type": "icc", "ksp_rtol": 1e-3}),
    ],
    ids=lambda p: "+".join(list(p.values())[:2]) if isinstance(p, dict) else "",
)
def test_iterative_solvers_give_the_same_gradient(nonlinear, parameters, V, exact):
    parameters = {**parameters, "snes_rtol": 1e-11, "snes_atol": 1e-13}
    Jhat, kappa, *_ = poisson(V, nonlinear=nonlinear, solver_parameters=parameters)
    check_same(values_and_gradients(Jhat, kappa), exact[nonlinear], 1e-6)


@pytest.mark.parametrize("nonlinear", [True, False], ids=["of u", "of x"])
def test_matrix_free(nonlinear, V, exact):
    parameters = {
        "mat_type": "matfree",
        "ksp_type": "gmres",
        "ksp_rtol": 1e-12,
        "pc_type": "python",
        "pc_python_type": "firedrake.AssembledPC",
        "assembled_pc_type": "lu",
        **TIGHT,
    }
    Jhat, kappa, *_ = poisson(V, nonlinear=nonlinear, solver_parameters=parameters)
    check_same(values_and_gradients(Jhat, kappa), exact[nonlinear], 1e-8)


def test_matrix_free_without_a_krylov_method(V, exact):
    """The assembled preconditioner must be that of the solution, not of the iterate before."""
    parameters = {
        "mat_type": "matfree",
        "ksp_type": "preonly",
        "pc_type": "python",
        "pc_python_type": "firedrake.AssembledPC",
        "assembled_pc_type": "lu",
        **TIGHT,
    }
    Jhat, kappa, *_ = poisson(V, solver_parameters=parameters)
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-8)


def test_options_for_adjoints(V, exact):
    own = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": 1e-12}
    Jhat, kappa, *_ = poisson(V, adjoint_solver_parameters=own)
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-8)
    hopeless = {"ksp_type": "gmres", "pc_type": "none", "ksp_max_it": 1, "ksp_rtol": 1e-12}
    Jhat, kappa, *_ = poisson(V, adjoint_solver_parameters=hopeless)
    with pytest.raises(ConvergenceError):
        Jhat.derivative()


def test_an_adjoint_solve_that_fails_says_what_to_do(V):
    parameters = {"ksp_type": "gmres", "pc_type": "none", "ksp_max_it": 200, **TIGHT}
    Jhat, _, solver, *_ = poisson(V, solver_parameters=parameters)
    solver.snes.getKSP().setTolerances(max_it=2)
    with pytest.raises(ConvergenceError, match=r"after 2 iterations.*adjoint_solver_parameters="):
        Jhat.derivative()


def stokes(parameters):
    get_working_tape().clear_tape()
    mesh = UnitSquareMesh(4, 4)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1)
    w, (v, q) = Function(W), TestFunctions(W)
    u, p = split(w)
    x, y = SpatialCoordinate(mesh)
    law = femnn.NeuralCoefficient(mlp(), inner(grad(u), grad(u)), degree=4)
    force = as_vector([10 * y, -5 * x])
    F = inner((1 + law) * grad(u), grad(v)) * dx - p * div(v) * dx - q * div(u) * dx
    F += 1e-2 * p * q * dx - dot(force, v) * dx
    continue_annotation()
    bc = DirichletBC(W.sub(0), 0, "on_boundary")
    femnn.solve(F == 0, w, bc, solver_parameters={**parameters, **TIGHT})
    J = assemble(inner(w.sub(0), as_vector([y, -(x**2)])) * dx + w.sub(1) ** 2 * dx)
    pause_annotation()
    return values_and_gradients(ReducedFunctional(J, Control(law.weights)), law)


def test_fieldsplit():
    expected = stokes({"mat_type": "aij", "ksp_type": "preonly", "pc_type": "lu"})
    blocks = {
        "mat_type": "nest",
        "ksp_rtol": 1e-12,
        "pc_type": "fieldsplit",
        "fieldsplit_0_ksp_type": "preonly",
        "fieldsplit_0_pc_type": "lu",
        "fieldsplit_1_ksp_type": "preonly",
        "fieldsplit_1_pc_type": "jacobi",
    }
    for kind in ("additive", "multiplicative"):
        split_up = {"ksp_type": "gmres", "ksp_gmres_restart": 200, "pc_fieldsplit_type": kind}
        check_same(stokes({**blocks, **split_up}), expected, 1e-7)
    schur = {
        "ksp_type": "fgmres",
        "pc_fieldsplit_type": "schur",
        "pc_fieldsplit_schur_fact_type": "full",
        "fieldsplit_1_ksp_type": "gmres",
        "fieldsplit_1_ksp_rtol": 1e-6,
        "fieldsplit_1_pc_type": "none",
    }
    check_same(stokes({**blocks, **schur}), expected, 1e-7)


def test_nullspace(V):
    """Pure Neumann conditions: the gradient against difference quotients."""
    x, y = SpatialCoordinate(V.mesh())
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(mlp(2), x, y)
    constants = VectorSpaceBasis(constant=True, comm=V.mesh().comm)
    F = kappa * inner(grad(u), grad(v)) * dx - (x - 0.5) * v * dx
    continue_annotation()
    femnn.solve(
        F == 0,
        u,
        nullspace=constants,
        transpose_nullspace=constants,
        solver_parameters={"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-12},
    )
    J = assemble(inner(grad(u), grad(u)) * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    w, direction = kappa.weights.vector, np.random.default_rng(0).standard_normal(33)
    gradient, h = Jhat.derivative().vector @ direction, 1e-5
    above, below = (Jhat(kappa.weights.like(w + s * h * direction)) for s in (1, -1))
    assert gradient == pytest.approx((above - below) / (2 * h), rel=1e-5)


# Tangents


def test_a_tangent_of_the_users_does_not_change_the_gradient(V, exact):
    def picard(kappa, u, v):
        return kappa * inner(grad(TrialFunction(V)), grad(v)) * dx

    parameters = {**LU, "snes_rtol": 1e-11, "snes_max_it": 200}
    Jhat, kappa, solver, *_ = poisson(V, tangent=picard, solver_parameters=parameters)
    assert solver.snes.getIterationNumber() > 6, "Picard's iteration was not used"
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-7)
    assert taylor_order(Jhat, kappa) > 1.95


def test_a_form_for_the_preconditioner(V, exact):
    u, v, x = Function(V), TestFunction(V), SpatialCoordinate(V.mesh())
    net = mlp()
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx + dot(as_vector([1.0, 0.5]), grad(u)) * v * dx
    F -= 10 * v * dx
    continue_annotation()
    femnn.solve(
        F == 0,
        u,
        DirichletBC(V, x[0], "on_boundary"),
        Jp=kappa * inner(grad(TrialFunction(V)), grad(v)) * dx,
        solver_parameters={"ksp_type": "gmres", "pc_type": "lu", "ksp_rtol": 1e-12, **TIGHT},
    )
    J = assemble((u - x[0] * x[1]) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-8)


def test_callbacks_are_called(V):
    calls = []
    poisson(
        V,
        pre_function_callback=lambda X: calls.append("residual"),
        pre_jacobian_callback=lambda X: calls.append("tangent"),
    )
    assert calls.count("residual") >= 3
    assert calls.count("tangent") >= 2


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
    run, guesses = solver._run, []

    def fails_first():
        guesses.append(solver.unknown.dat.data_ro.copy())
        if len(guesses) == 1:
            solver.unknown.assign(np.nan)
            raise ConvergenceError("from there it does not converge")
        run()

    solver._run = fails_first
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


def test_single_precision_network(V):
    double, single = mlp(), mlp(dtype=torch.float32)
    femnn.Weights.of(double).assign(femnn.Weights.of(single))
    loose = {**LU, "snes_rtol": 1e-6, "snes_atol": 1e-8}
    Jhat, kappa, *_ = poisson(V, net=double)
    expected = values_and_gradients(Jhat, kappa)
    Jhat, kappa, *_ = poisson(V, net=single, solver_parameters=loose)
    check_same(values_and_gradients(Jhat, kappa), expected, 1e-4)


def test_forms_without_a_network(V):
    x, y = SpatialCoordinate(V.mesh())
    results = []
    for how in (solve, femnn.solve):
        get_working_tape().clear_tape()
        u, v, f = Function(V), TestFunction(V), Function(V).assign(10.0)
        continue_annotation()
        F = (1 + u**2) * inner(grad(u), grad(v)) * dx - f * v * dx
        how(F == 0, u, DirichletBC(V, x, "on_boundary"), solver_parameters=LU)
        J = assemble((u - x * y) ** 2 * dx)
        pause_annotation()
        Jhat = ReducedFunctional(J, Control(f))
        at_recording = Jhat.derivative(apply_riesz=False).dat.data_ro.copy()
        away = Jhat(Function(V).interpolate(10 + 5 * sin(3 * x)))
        gradient = Jhat.derivative(apply_riesz=False).dat.data_ro.copy()
        results.append((u.dat.data_ro.copy(), at_recording, np.array([away]), gradient))
    for a, b in zip(*results, strict=True):
        assert np.allclose(a, b, rtol=1e-8, atol=1e-12)
        assert np.linalg.norm(b) > 1e-4


# Reuse of matrices


@contextlib.contextmanager
def counted(solver):
    """How often the solver's tangent is assembled."""
    context, calls = solver._inner._ctx, []
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


class FailsOnTheLastRank(torch.nn.Module):
    """A law that raises an error on one rank, when told to."""

    armed = False

    def forward(self, x):
        if self.armed and COMM_WORLD.rank == COMM_WORLD.size - 1:
            raise ZeroDivisionError("inside the network")
        return 1 + x**2


@pytest.mark.parallel([1, 2, 3])
def test_an_error_inside_a_network_ends_all_ranks_and_the_solver_goes_on():
    net = FailsOnTheLastRank()
    V = FunctionSpace(UnitSquareMesh(6, 6), "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    net.armed = True
    with pytest.raises((ZeroDivisionError, RuntimeError), match=r"inside the network|another rank"):
        solver.solve()
    net.armed = False
    solver.solve()
    expected = Function(V)
    exact = (1 + expected**2) * inner(grad(expected), grad(v)) * dx(degree=4) - v * dx
    solve(exact == 0, expected, DirichletBC(V, 0, "on_boundary"))
    assert errornorm(expected, u) < 1e-10


def test_a_constant_matrix_in_a_form(V):
    u, expected, v = Function(V), Function(V), TestFunction(V)
    K = Constant([[1.0, 0.2], [-0.1, 2.0]])
    bc = DirichletBC(V, 0, "on_boundary")
    for solve_with, into in ((femnn.solve, u), (solve, expected)):
        F = inner(K * grad(into), grad(v)) * dx - v * dx
        solve_with(F == 0, into, bc, solver_parameters=LU)
    assert errornorm(expected, u) < 1e-12
