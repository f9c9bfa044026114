"""Gauss-Newton products on the tape, against the matrix made column by column."""

import numpy as np
import pytest
from checkpoint_schedules import Revolve
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.curvature import gauss_newton_product

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


def diffusion(V):
    """A nonlinear diffusion: the solver, its unknown, its last state, law and source."""
    u, un, v = Function(V, name="u"), Function(V, name="un"), TestFunction(V)
    f = Function(V, name="f").interpolate(5 * SpatialCoordinate(V.mesh())[0])
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), u)
    F = (u - un) * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, 1))
    return femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT), u, un, kappa, f


def product(J, controls, direction):
    return gauss_newton_product(J, controls, direction, get_working_tape())


@pytest.mark.parallel([1, 2])
def test_the_matrix_of_a_sum_of_squares():
    """With the mass matrix between the model's Jacobian, and the penalty's own part."""
    V = FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)
    solver, u, _, kappa, _ = diffusion(V)
    continue_annotation()
    solver.solve()
    J = femnn.assemble((u - 1) ** 2 * dx) + 0.1 * kappa.weights.squared_norm()
    pause_annotation()
    w = kappa.weights
    model = ReducedFunctional(u, Control(w))
    columns = [model.tlm(w.like(row)).copy(deepcopy=True) for row in np.eye(len(w))]
    direction = np.random.default_rng(1).normal(size=len(w))
    found = product(J, Control(w), w.like(direction)).vector
    rows = [[assemble(2 * a * b * dx) for b in columns] for a in columns]
    expected = np.array(rows) @ direction + 0.2 * direction
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)
    Jhat = ReducedFunctional(J, Control(w))
    with pytest.raises(RuntimeError, match=r"Call Jhat.derivative\(\) before Jhat.hessian"):
        Jhat.hessian(w.like(direction))
    Jhat.derivative()
    assert not np.allclose(Jhat.hessian(w.like(direction)).vector, expected, rtol=1e-3)


def test_it_is_the_hessian_where_the_model_is_linear():
    V = FunctionSpace(UnitSquareMesh(4, 3), "CG", 1)
    u, v = Function(V), TestFunction(V)
    x, _ = SpatialCoordinate(V.mesh())
    f = Function(V).interpolate(x)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), x)
    continue_annotation()
    femnn.solve(kappa * inner(grad(u), grad(v)) * dx - f * v * dx == 0, u, DirichletBC(V, 0, 1))
    J = femnn.assemble((u - 1) ** 4 * dx) ** 2
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(f))
    direction = Function(V).interpolate(1 + x**2)
    Jhat.derivative()
    expected = Jhat.hessian(direction).dat.data_ro.copy()
    found = product(J, Control(f), direction).dat.data_ro
    assert np.allclose(found, expected, rtol=1e-9)


def test_a_schedule_gives_the_same():
    V, results = FunctionSpace(UnitIntervalMesh(6), "CG", 1), []
    for schedule in (None, Revolve(4, 2)):
        get_working_tape().clear_tape()
        continue_annotation()
        if schedule is not None:
            femnn.enable_checkpointing(schedule)
        solver, u, un, kappa, f = diffusion(V)
        J = 0.0
        for _ in get_working_tape().timestepper(iter(range(4))):
            solver.solve()
            un.assign(u)
            J += femnn.assemble((u - 1) ** 2 * dx)
        pause_annotation()
        w = kappa.weights
        direction = [w.like(np.linspace(-1, 1, len(w))), Function(V).assign(0.3)]
        if schedule is not None:
            ReducedFunctional(J, Control(w))(w)
        dw, df = product(J, [Control(w), Control(f)], direction)
        results.append(np.concatenate([dw.vector, df.dat.data_ro]))
    assert np.linalg.norm(results[0]) > 1e-3
    assert np.allclose(*results, rtol=1e-9, atol=1e-12)
