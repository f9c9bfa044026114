"""Operator splitting: orders in time, what is kept."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation

import femnn
from tests.verification.problems import TIGHT, splitting


@pytest.fixture(scope="module")
def reference():
    scheme, _ = splitting.reaction_diffusion(femnn.StrangSplitting, splitting.Rates(), 200)
    return splitting.final(scheme, 200)


@pytest.mark.parametrize(
    ("kind", "method", "order"),
    [
        (femnn.LieSplitting, "rk4", 1),
        (femnn.LieSplitting, "backward_euler", 1),
        (femnn.StrangSplitting, "heun", 2),
        (femnn.StrangSplitting, "rk4", 2),
        (femnn.StrangSplitting, "sdirk2", 2),
    ],
)
def test_order_in_time(kind, method, order, reference):
    errors = []
    for steps in (10, 20):
        scheme, _ = splitting.reaction_diffusion(kind, splitting.Rates(), steps, method)
        errors.append(np.linalg.norm(splitting.final(scheme, steps) - reference))
        assert float(scheme.time) == pytest.approx(1.0)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_the_matrix_is_factorised_once_for_steps_and_training():
    from firedrake.petsc import PETSc

    PETSc.Log.begin()
    continue_annotation()
    net = femnn.MLP(3, 4, 2, seed=1)
    scheme, _ = splitting.reaction_diffusion(femnn.StrangSplitting, net, 10)
    for _ in range(5):
        scheme.step()
    J = femnn.assemble(scheme.solution[0] ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(scheme.weights))
    factorisations = PETSc.Log.Event("MatLUFactorNum").getPerfInfo()["count"]
    for factor in (1.1, 1.2):
        Jhat(scheme.weights.like(factor * scheme.weights.vector))
        Jhat.derivative()
        Jhat.hessian(scheme.weights.like(scheme.weights.vector))
    assert PETSc.Log.Event("MatLUFactorNum").getPerfInfo()["count"] == factorisations


def growth(length, start, steps=2, on_real=()):
    """u' = 0.3 t u by splitting, twice, and nothing else: the functional."""
    mesh = UnitIntervalMesh(2)
    V, R = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "R", 0)
    u, un, v = Function(V).assign(1.0), Function(V), TestFunction(V)
    dt = Function(R).assign(length) if "dt" in on_real else Constant(length)
    t = Function(R).assign(start) if "t" in on_real else Constant(start)
    solver = femnn.NeuralVariationalSolver(
        femnn.NeuralVariationalProblem((u - un) / dt * v * dx, u), solver_parameters=TIGHT
    )
    scheme = femnn.StrangSplitting(solver, un, Growth(), dt=dt, time=t)
    controls = [Control(dt), Control(t)]
    for _ in range(steps):
        scheme.step()
    return femnn.assemble(u**2 * dx), controls


class Growth(torch.nn.Module):
    def forward(self, x):
        return 0.3 * x[:, :1] * x[:, 1:] * torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize("on_real", [(), ("t",), ("dt",), ("dt", "t")], ids=str)
def test_derivatives_for_step_and_time_are_those_of_another_run(on_real):
    continue_annotation()
    J, controls = growth(0.2, 0.5, on_real=on_real)
    pause_annotation()
    Jhat = ReducedFunctional(J, controls)

    def at(*numbers):
        pairs = zip(controls, numbers, strict=True)
        return [c.control._ad_copy().assign(number) for c, number in pairs]

    assert Jhat(at(0.25, 0.6)) == pytest.approx(growth(0.25, 0.6)[0], rel=1e-12)
    Jhat(at(0.2, 0.5))
    slopes = [float(np.sum(g.dat.data_ro)) for g in Jhat.derivative()]
    h = 1e-5
    expected = [
        (growth(0.2 + h, 0.5)[0] - growth(0.2 - h, 0.5)[0]) / (2 * h),
        (growth(0.2, 0.5 + h)[0] - growth(0.2, 0.5 - h)[0]) / (2 * h),
    ]
    assert slopes == pytest.approx(expected, rel=1e-7)
    assert Jhat.tlm(at(1.0, -0.5)) == pytest.approx(expected[0] - 0.5 * expected[1], rel=1e-7)


def test_stiffness_is_the_largest_eigenvalue_times_the_step():
    mesh = UnitIntervalMesh(4)
    y = Function(VectorFunctionSpace(mesh, "CG", 1, dim=2))
    net = femnn.MLP(2, 2, seed=1)  # linear
    ode = femnn.PointwiseODE(net, y, dt=Constant(0.5))
    (matrix,) = (p.detach().numpy() for p in net.parameters() if p.ndim == 2)
    expected = 0.5 * np.abs(np.linalg.eigvals(matrix)).max()
    assert ode.stiffness() == pytest.approx(expected, rel=1e-12)


def test_wrong_arguments_are_named():
    mesh = UnitIntervalMesh(4)
    V, W = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "CG", 2)
    u, un, other = Function(V, name="u"), Function(V, name="un"), Function(W, name="other")
    v, dt = TestFunction(V), Constant(0.1)
    problem = femnn.NeuralVariationalProblem((u - un) / dt * v * dx, u)
    solver = femnn.NeuralVariationalSolver(problem)
    net = femnn.MLP(2, 3, 2)
    with pytest.raises(ValueError, match="other does not stand in the solver's form"):
        femnn.LieSplitting(solver, other, net, dt=dt)
    with pytest.raises(
        ValueError, match=r"other has its values at the points of .*and un at those"
    ):
        femnn.LieSplitting(solver, un, net, dt=dt, states=[other])
    with pytest.raises(ValueError, match=r"dt=.* does not stand in the solver's form"):
        femnn.LieSplitting(solver, un, net, dt=Constant(0.1))
    with pytest.raises(ValueError, match="previous is u, the solver's unknown: give the Function"):
        femnn.LieSplitting(solver, u, femnn.MLP(1, 3, 1), dt=dt)
    with pytest.raises(ValueError, match="are u, un, u: one stands there twice"):
        femnn.LieSplitting(solver, un, net, dt=dt, states=[u])
    with pytest.raises(ValueError, match="start has 2 components, wanted 1: one for each comp"):
        femnn.PointwiseODE(femnn.MLP(1, 3, 1), un, dt=dt, start=[u, u])


@pytest.mark.parallel([1, 2])
def test_a_step_that_blows_up_is_an_error_on_all_ranks():
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    u = Function(V).interpolate(SpatialCoordinate(V.mesh())[0])

    class Explosion(torch.nn.Module):
        def forward(self, x):
            return torch.exp(50 * (x + 1))

    step = femnn.PointwiseODE(Explosion(), u, dt=Constant(1.0), method="rk4", substeps=3)
    before = u.dat.data_ro.copy()
    with pytest.raises(
        ConvergenceError,
        match=r"step of Explosion by rk4 with substeps=3 gave values that are not numbers at 5 "
        r"points \(before it: at 0\): .* an implicit method \('sdirk2'\)",
    ):
        step.step()
    assert np.array_equal(u.dat.data_ro, before)


def test_errors_name_the_users_module():
    u = Function(FunctionSpace(UnitIntervalMesh(2), "CG", 1))
    with pytest.raises(ValueError, match="the rate MLP has 2 outputs, wanted 1: one for each"):
        femnn.PointwiseODE(femnn.MLP(1, 5, 2), u, dt=Constant(0.1))
    step = femnn.PointwiseODE(femnn.MLP(1, 5, 1), u.assign(np.nan), dt=Constant(0.1))
    with pytest.raises(ConvergenceError, match=r"\(before it: at 3\): the values before it, or"):
        step.step()
    with pytest.raises(ValueError, match="the network MLP"):
        femnn.PointwiseODE(femnn.MLP(3, 5, 1), u, dt=Constant(0.1))
