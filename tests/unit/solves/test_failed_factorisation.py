"""A factorisation that fails is not the end of the solver."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

SOLVERS = {
    "direct": {},
    "iterative": {"ksp_type": "gmres", "ksp_max_it": 60, "pc_type": "jacobi"},
}


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("parameters", SOLVERS.values(), ids=SOLVERS)
def test_a_solve_after_a_singular_matrix(parameters):
    """PETSc keeps a factorisation's error: without care all later solves would fail as well."""
    mesh = UnitSquareMesh(4, 4)
    V = FunctionSpace(mesh, "P", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    scale = Constant(1.0)
    F = scale * kappa * inner(grad(u), grad(v)) * dx - v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters=parameters)
    continue_annotation()
    solver.solve()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(scale)])
    gradient = Jhat.derivative()[0].vector.copy()
    expected = u.dat.data_ro.copy()

    weights = kappa.weights.like(kappa.weights.vector)
    with pytest.raises(ConvergenceError):
        Jhat([weights, Constant(0.0)])
    assert Jhat([weights, Constant(1.0)]) == pytest.approx(J, rel=1e-8)
    assert np.allclose(Jhat.derivative()[0].vector, gradient, rtol=1e-6, atol=1e-12)

    scale.assign(0.0)
    with pytest.raises(ConvergenceError):
        solver.solve()
    scale.assign(1.0)
    solver.solve()
    assert np.allclose(u.dat.data_ro, expected, rtol=1e-7, atol=1e-12)
