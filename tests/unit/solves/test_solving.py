"""Solves: linear solvers, tangents, precision, forms."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.counts import counting
from tests.unit.solves.diffusion import (
    LU,
    TIGHT,
    check_same,
    mlp,
    poisson,
    taylor_order,
    values_and_gradients,
)


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
    for _ in range(2):  # and again: the solver that has failed is not a half-made one
        with pytest.raises(ConvergenceError):
            Jhat.derivative()


def test_an_adjoint_solve_that_fails_is_done_again_or_says_what_to_do(V, exact):
    parameters = {"ksp_type": "gmres", "pc_type": "none", "ksp_max_it": 200, **TIGHT}
    Jhat, _, solver, *_ = poisson(V, solver_parameters=parameters)
    solver.snes.getKSP().setTolerances(max_it=2)
    first = Jhat.derivative().vector  # with a solver of its own, of the same options
    assert np.linalg.norm(first - exact[True][0][1]) < 1e-5 * np.linalg.norm(first)
    hopeless = {**parameters, "ksp_max_it": 2}
    Jhat, *_ = poisson(V, adjoint_solver_parameters=hopeless)
    for _ in range(2):  # the second time with what the first has left
        with pytest.raises(ConvergenceError, match=r"after 2 .*iterations"):
            Jhat.derivative()


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("pc", ["jacobi", "bjacobi"])
def test_what_a_krylov_method_leaves_over_is_solved_for(pc, recwarn):
    """Where the diagonal jumps, a small preconditioned residual is a large one."""
    mesh = UnitSquareMesh(16, 16)
    V = FunctionSpace(mesh, "CG", 1)
    x, _ = SpatialCoordinate(mesh)
    rock = conditional(x > 0.5, 1e4, 1.0)
    u, v = Function(V), TestFunction(V)
    krylov = {"ksp_type": "gmres", "ksp_gmres_restart": 200, "ksp_max_it": 1000, "pc_type": pc}
    gradients = []
    for options in ({"snes_rtol": 1e-12}, {"snes_rtol": 1e-8, **krylov}):
        kappa = femnn.NeuralCoefficient(mlp(), u)
        F = rock * kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        problem = femnn.NeuralVariationalProblem(F, u.assign(0), DirichletBC(V, 0, "on_boundary"))
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=options)
        with set_working_tape(Tape()):
            continue_annotation()
            solver.solve()
            J = assemble(u**2 * dx)
            pause_annotation()
            with counting() as spent:
                gradient = ReducedFunctional(J, Control(kappa.weights)).derivative()
        gradients.append(gradient.vector)
    assert spent.linear > 1
    assert not recwarn.list  # no other solver has taken its place
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-10)


def test_a_loose_adjoint_solve_goes_on(V, exact):
    loose = {"ksp_type": "gmres", "pc_type": "ilu", "ksp_rtol": 1e-3}
    Jhat, kappa, *_ = poisson(V, adjoint_solver_parameters=loose)
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-5)


@pytest.mark.parametrize("pc", ["sor", "eisenstat"])
def test_no_transposed_solve_is_tried_where_there_is_none(pc, V, exact):
    """PETSc's objects are unusable after it, and crash it where they are destroyed."""
    parameters = {"ksp_type": "gmres", "pc_type": pc, **TIGHT}
    Jhat, kappa, solver, *_ = poisson(V, solver_parameters=parameters)
    forward = solver.state.solver
    check_same(values_and_gradients(Jhat, kappa), exact[True], 1e-6)
    assert solver.state.solver is forward


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


def test_options_that_petsc_does_not_know_are_named(V):
    with pytest.warns(UserWarning, match="solver_parameters has 'ksp_typ', for which PETSc has"):
        poisson(V, solver_parameters={"ksp_typ": "cg", "mat_type": "aij", "pc_type": "jacobi"})


def test_callbacks_are_called(V):
    calls = []
    poisson(
        V,
        pre_function_callback=lambda X: calls.append("residual"),
        pre_jacobian_callback=lambda X: calls.append("tangent"),
    )
    assert calls.count("residual") >= 3
    assert calls.count("tangent") >= 2


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


def test_a_constant_matrix_in_a_form(V):
    u, expected, v = Function(V), Function(V), TestFunction(V)
    K = Constant([[1.0, 0.2], [-0.1, 2.0]])
    bc = DirichletBC(V, 0, "on_boundary")
    for solve_with, into in ((femnn.solve, u), (solve, expected)):
        F = inner(K * grad(into), grad(v)) * dx - v * dx
        solve_with(F == 0, into, bc, solver_parameters=LU)
    assert errornorm(expected, u) < 1e-12


def test_the_form_compilers_degree_is_that_of_measures_without_one(V):
    """Firedrake's own solve is the oracle, with the law written out."""
    parameters = {"quadrature_degree": 1}
    u, exact, v = Function(V), Function(V), TestFunction(V)
    x, _ = SpatialCoordinate(V.mesh())
    net, bc = mlp(), DirichletBC(V, 0, "on_boundary")

    def residual(u, k):
        return k * inner(grad(u), grad(v)) * dx - exp(4 * x) * v * dx - v * dx(degree=3)

    kappa = femnn.NeuralCoefficient(net, u, degree=1)
    options = {"form_compiler_parameters": parameters, "solver_parameters": LU}
    femnn.solve(residual(u, kappa) == 0, u, bc, **options)
    solve(residual(exact, femnn.to_ufl(net, exact)[0]) == 0, exact, bc, **options)
    assert np.allclose(u.dat.data_ro, exact.dat.data_ro, rtol=1e-9, atol=1e-13)
    found = femnn.assemble(exp(4 * x) * kappa * dx, form_compiler_parameters=parameters)
    law = femnn.to_ufl(net, u)[0]
    expected = assemble(exp(4 * x) * law * dx, form_compiler_parameters=parameters)
    assert found == pytest.approx(expected, rel=1e-12)
    other = femnn.NeuralCoefficient(net, u, degree=4)
    with pytest.raises(ValueError, match=r"quadrature degree 1.*has degree 4.*degree=1"):
        femnn.solve(residual(u, other) == 0, u, bc, **options)
