"""What must never be out of date, or silently wrong."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

LU = {"snes_rtol": 1e-12}


@pytest.fixture
def V():
    return FunctionSpace(UnitSquareMesh(8, 8), "CG", 1)


def recorded(V, net=None, **options):
    """-div(kappa(u) grad u) = 10 on the tape: functional, coefficient, unknown."""
    x, _ = SpatialCoordinate(V.mesh())
    continue_annotation()
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net or femnn.MLP(1, 6, 1, output="softplus"), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    options = {"solver_parameters": LU, **options}
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), **options)
    J = femnn.assemble((u - x) ** 2 * dx)
    pause_annotation()
    return J, kappa, u


def test_a_linear_solve_that_newton_forgives_is_refused_for_the_adjoint(V):
    options = {"ksp_type": "preonly", "pc_type": "ilu", "snes_max_it": 200, "snes_rtol": 1e-8}
    J, kappa, _ = recorded(V, solver_parameters=options)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    with pytest.raises(ConvergenceError, match=r"relative residual.*adjoint_solver_parameters"):
        Jhat.derivative()


def test_a_solver_without_a_transpose_that_does_not_converge_gives_way_with_a_warning(V):
    sweeps = {"ksp_type": "richardson", "pc_type": "sor", "ksp_max_it": 3, "snes_max_it": 500}
    options = {**sweeps, "ksp_convergence_test": "skip", "snes_rtol": 1e-10}
    J, kappa, _ = recorded(V)
    exact = ReducedFunctional(J, Control(kappa.weights)).derivative().vector
    get_working_tape().clear_tape()
    J, kappa, _ = recorded(V, solver_parameters=options)
    with pytest.warns(UserWarning, match=r"sor.*LU factorisation.*adjoint_solver_parameters"):
        gradient = ReducedFunctional(J, Control(kappa.weights)).derivative().vector
    np.testing.assert_allclose(gradient, exact, rtol=1e-6, atol=1e-10)


def test_stale_factors_are_not_used_for_the_adjoint(V):
    J, kappa, _ = recorded(V)
    exact = ReducedFunctional(J, Control(kappa.weights)).derivative().vector
    get_working_tape().clear_tape()
    lagged = {"snes_lag_preconditioner": -2, "ksp_type": "gmres", "pc_type": "lu"}
    J, kappa, _ = recorded(V, solver_parameters={**LU, **lagged})
    gradient = ReducedFunctional(J, Control(kappa.weights)).derivative().vector
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-10)


def test_conditions_keep_their_class(V):
    class FirstNodes(DirichletBC):
        @property
        def nodes(self):
            return super().nodes[:3]

    u, w, v = Function(V), Function(V), TestFunction(V)
    F = inner(grad(u), grad(v)) * dx + 0.1 * u * v * dx - v * dx
    femnn.solve(F == 0, u, FirstNodes(V, 0, "on_boundary"))
    solve(replace(F, {u: w}) == 0, w, FirstNodes(V, 0, "on_boundary"))
    assert errornorm(w, u) < 1e-10 * norm(w)


def test_a_linear_equation_may_hold_the_old_value(V):
    x, y = SpatialCoordinate(V.mesh())
    u, w, t, v = Function(V), Function(V), TrialFunction(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 4, 1, output="softplus"), x, y)
    for f, solver in ((u, femnn.solve), (w, solve)):
        f.interpolate(sin(x) * y)
        law = kappa if f is u else femnn.to_ufl(kappa.net, x, y)[0]
        a = t * v * dx + 0.1 * law * inner(grad(t), grad(v)) * dx(degree=kappa.degree)
        solver(a == f * v * dx, f, bcs=DirichletBC(V, 0, 1))
    assert errornorm(w, u) < 1e-10


def test_gradient_for_the_old_value_of_a_linear_equation(V):
    x, y = SpatialCoordinate(V.mesh())
    start = Function(V, name="start").interpolate(sin(x) * y)
    continue_annotation()
    u, t, v = Function(V), TrialFunction(V), TestFunction(V)
    u.assign(start)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 4, 1, output="softplus"), x, y)
    for _ in range(2):
        femnn.solve(t * v * dx + kappa * inner(grad(t), grad(v)) * dx == u * v * dx, u)
    J = femnn.assemble(u**4 * dx)
    pause_annotation()
    direction = Function(V).interpolate(cos(3 * x))
    assert taylor_test(ReducedFunctional(J, Control(start)), start, direction) > 1.95


def test_a_default_degree_that_is_too_low_for_the_test_function_is_refused():
    mesh = UnitSquareMesh(3, 3)
    x, y = SpatialCoordinate(mesh)
    V = FunctionSpace(mesh, "CG", 3)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 4, 1), x, y)
    with pytest.raises(ValueError, match=r"too low for test functions of degree 3.*degree=8"):
        femnn.assemble(kappa * TrialFunction(V) * TestFunction(V) * dx)
    given = femnn.NeuralCoefficient(femnn.MLP(2, 4, 1), x, y, degree=4)
    femnn.assemble(given * inner(grad(TrialFunction(V)), grad(TestFunction(V))) * dx)


def test_a_control_made_after_torch_has_changed_the_weights_is_on_the_tape(V):
    J, kappa, _ = recorded(V)
    with torch.no_grad():
        for p in kappa.net.parameters():
            p.add_(0.1)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    result = femnn.fit(Jhat, maxiter=3, progress=False)
    assert result.loss < result.initial_loss
    fresh = recorded(V, kappa.net)[0]
    assert fresh == pytest.approx(result.loss, rel=1e-8)


def test_a_float32_network_can_be_trained_twice(V):
    J, kappa, _ = recorded(V, femnn.MLP(1, 6, 1, output="softplus", dtype=torch.float32))
    first = femnn.fit(ReducedFunctional(J, Control(kappa.weights)), maxiter=3, progress=False)
    second = femnn.fit(ReducedFunctional(J, Control(kappa.weights)), maxiter=3, progress=False)
    assert second.loss < first.loss


def test_fit_refuses_a_functional_that_does_not_depend_on_the_weights(V):
    J, _, u = recorded(V)
    other = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), u)
    with pytest.raises(ValueError, match="exactly zero: the functional does not depend"):
        femnn.fit(ReducedFunctional(J, Control(other.weights)), progress=False)


def test_fit_with_no_iterations_changes_nothing(V):
    J, kappa, _ = recorded(V)
    before = kappa.weights.vector
    result = femnn.fit(ReducedFunctional(J, Control(kappa.weights)), maxiter=0, progress=False)
    assert np.array_equal(before, kappa.weights.vector)
    assert (result.iterations, result.reason) == (0, "iterations")


def test_buffers_count_as_part_of_the_network(V):
    net = femnn.MLP(1, 6, 1, input_range=(0, 1))
    u = Function(V).assign(0.3)
    kappa = femnn.NeuralCoefficient(net, u)
    before = femnn.assemble(kappa * dx)
    net.layers[0].half_width.mul_(3.0)
    assert femnn.assemble(kappa * dx) != pytest.approx(before, rel=1e-3)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.factor = femnn.MLP(1, 6, 1, output="softplus", seed=1), 1.0

    def forward(self, x):
        return self.factor * self.net(0.0 * x)


def test_a_solver_sees_an_attribute_of_its_network_change(V):
    """The solution of -div(c k grad u) = 1 with a constant k is proportional to 1 / c."""
    net, u, v = Scaled(), Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net, u)
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters={"snes_rtol": 1e-12})
    solver.solve()
    before = u.dat.data_ro.copy()
    net.factor = 4.0
    with pytest.raises(RuntimeError, match="out of date"):
        _ = kappa.dat
    solver.solve()  # starts from its last solution
    assert np.allclose(4 * u.dat.data_ro, before, rtol=1e-9, atol=1e-14)


def test_parameters_that_are_made_trainable_later_are_refused(V):
    net = femnn.MLP(1, 6, 1)
    first = next(net.parameters()).requires_grad_(False)
    kappa = femnn.NeuralCoefficient(net, Function(V))
    first.requires_grad_(True)
    with pytest.raises(ValueError, match=r"made trainable after.*make the coefficient anew"):
        kappa.update()


def test_dropout_in_training_mode_is_refused_at_any_time(V):
    net = torch.nn.Sequential(femnn.MLP(1, 6, 1), torch.nn.Dropout(0.5)).eval()
    kappa = femnn.NeuralCoefficient(net, Function(V)).update()
    net.train()
    kappa.operands[0].assign(1.0)
    with pytest.raises(ValueError, match=r"training mode.*net\.eval\(\)"):
        kappa.update()


def test_a_mesh_that_moves_is_noticed():
    mesh = UnitSquareMesh(4, 4)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    u, w, v = Function(V), Function(V), TestFunction(V)
    bc = DirichletBC(V, 0, "on_boundary")
    F = (1 + x) * inner(grad(u), grad(v)) * dx - v * dx
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u, bc))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), x * y)
    solver.solve()
    before = femnn.assemble(kappa * dx) / assemble(1 * dx(mesh))
    mesh.coordinates.interpolate(as_vector([2 * x, 2 * y]))
    solver.solve()
    solve(replace(F, {u: w}) == 0, w, bc)
    assert errornorm(w, u) < 1e-10
    assert femnn.assemble(kappa * dx) / assemble(1 * dx(mesh)) != pytest.approx(before, rel=1e-3)


def test_data_written_through_an_array_that_is_held_is_noticed(V):
    u, w, v, f = Function(V), Function(V), TestFunction(V), Function(V).assign(1.0)
    bc = DirichletBC(V, 0, "on_boundary")
    held = f.dat.data
    F = inner(grad(u), grad(v)) * dx - f * v * dx
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u, bc))
    solver.solve()
    held[:] = 5.0
    solver.solve()
    solve(replace(F, {u: w}) == 0, w, bc)
    assert errornorm(w, u) < 1e-10 * norm(w)


def test_own_adjoint_solvers_get_the_forward_ones_null_space(V):
    x, y = SpatialCoordinate(V.mesh())
    continue_annotation()
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 4, 1, output="softplus"), x, y)
    f = Function(V).interpolate(cos(pi * x) * cos(pi * y))
    constants = VectorSpaceBasis(constant=True, comm=V.mesh().comm)
    cg = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-11, "snes_type": "ksponly"}
    gradients = []
    for own in (None, cg):
        u.assign(0.0)
        femnn.solve(
            kappa * inner(grad(u), grad(v)) * dx - f * v * dx == 0,
            u,
            solver_parameters=cg,
            nullspace=constants,
            transpose_nullspace=constants,
            adjoint_solver_parameters=own,
        )
        J = femnn.assemble(inner(grad(u), grad(u)) * x * dx)
        gradients.append(ReducedFunctional(J, Control(kappa.weights)).derivative().vector)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-10)


def test_a_condition_whose_values_are_exchanged_is_replayed_as_it_was(V):
    x, y = SpatialCoordinate(V.mesh())
    first, second = Function(V).interpolate(x), Function(V).interpolate(x * y)
    continue_annotation()
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    bc = DirichletBC(V, first, "on_boundary")
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem(F, u, bc), solver_parameters=LU
    )
    J = 0.0
    for values in (first, second):
        bc.function_arg = values
        solver.solve()
        J += femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    assert Jhat(kappa.weights) == pytest.approx(float(J), rel=1e-9)


def test_sums_of_forms_and_cofunctions_are_assembled(V):
    u, v = Function(V).assign(0.3), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), u)
    total = femnn.assemble(kappa * v * dx + assemble(v * dx))
    parts = femnn.assemble(kappa * v * dx).dat.data_ro + assemble(v * dx).dat.data_ro
    np.testing.assert_allclose(total.dat.data_ro, parts, rtol=1e-13)


@pytest.mark.parallel([2, 3])
def test_weights_that_differ_between_ranks_are_refused_on_all_of_them():
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    if COMM_WORLD.rank == 0:
        with torch.no_grad():
            next(kappa.net.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="differ between ranks"):
        femnn.assemble(kappa * dx)
    F = kappa * inner(grad(u), grad(v)) * dx - v * dx
    with pytest.raises(RuntimeError, match="differ between ranks"):
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))


def messages(error):
    """The texts of an error and of those that it comes from."""
    found = []
    while error is not None:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(found)


@pytest.mark.parametrize("tangent", ["UFL's", "given"])
@pytest.mark.parametrize("fresh", [False, True])
def test_firedrakes_own_solver_is_refused_with_a_law_of_the_unknown(V, fresh, tangent):
    u, v, w = Function(V), TestFunction(V), TrialFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    if fresh:
        femnn.assemble(kappa * dx)
    F = kappa * inner(grad(u), grad(v)) * dx(degree=kappa.degree) - 10 * v * dx
    J = None if tangent == "UFL's" else kappa * inner(grad(w), grad(v)) * dx(degree=kappa.degree)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (PETSc's own carries ours)
        solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), J=J)
    assert "out of date" in messages(caught.value)
    assert "femnn.solve" in messages(caught.value)


def test_firedrakes_own_assembler_is_refused_values_that_are_out_of_date(V):
    u = Function(V).assign(0.3)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), u, degree=2)
    form = kappa * dx(degree=2)
    right = femnn.assemble(form)
    assert assemble(form) == pytest.approx(right, rel=1e-12)
    u.assign(0.6)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of date"):
            assemble(form)
    assert femnn.assemble(form) == pytest.approx(assemble(form), rel=1e-12)
