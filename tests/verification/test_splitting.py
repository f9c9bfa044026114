"""Operator splitting: orders in time, what is kept."""

import numpy as np
import pytest
from firedrake import *

import femnn
from tests.verification.problems import splitting


@pytest.fixture(scope="module")
def reference():
    scheme, _ = splitting.reaction_diffusion(femnn.StrangSplitting, splitting.Rates(), 400)
    return splitting.final(scheme, 400)


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
    for steps in (20, 40):
        scheme, _ = splitting.reaction_diffusion(kind, splitting.Rates(), steps, method)
        errors.append(np.linalg.norm(splitting.final(scheme, steps) - reference))
        assert float(scheme.time) == pytest.approx(1.0)
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_the_matrix_is_factorised_once_for_steps_and_training():
    from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation
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
    with pytest.raises(ValueError, match="start has 2 components, wanted 1: one for each comp"):
        femnn.PointwiseODE(femnn.MLP(1, 3, 1), un, dt=dt, start=[u, u])
