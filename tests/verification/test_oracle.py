"""The same network written out in UFL, and exact laws, as independent oracles."""

import numpy as np
import pytest
import torch
import ufl
from firedrake import *

import femnn

NETS = {
    "tanh-softplus": femnn.MLP(3, 5, 4, 1, output="softplus", seed=3),
    "sigmoid-bounded": femnn.MLP(3, 5, 1, activation="sigmoid", output=(0.2, 3.0), seed=4),
    "silu-exp-scaled": femnn.MLP(3, 4, 1, activation="silu", output="exp", input_range=(-2, 2)),
}


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def bent(V):
    """A Function that is not special in any way."""
    x = SpatialCoordinate(V.mesh())
    return Function(V).interpolate(sin(2 * x[0]) + x[1] ** 2 * x[0])


def neural_and_written_out(net, degree=4):
    mesh = UnitSquareMesh(6, 5)
    V = FunctionSpace(mesh, "CG", 2)
    u, v = bent(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net, u, grad(u), degree=degree)
    written = femnn.to_ufl(net, u, u.dx(0), u.dx(1))[0]

    def residual(k, dx):
        return k * inner(grad(u), grad(v)) * dx + k * u * v * dx - Constant(3.0) * v * dx

    return u, residual(kappa, ufl.dx), residual(written, ufl.dx(degree=degree))


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_residual_and_tangent_equal_the_written_out_network(net):
    u, F, F_ufl = neural_and_written_out(net)
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    solver.state.load({})
    solver.state.evaluate()
    residual, expected = assemble(solver.state.residual), assemble(F_ufl)
    assert relative(residual.dat.data_ro, expected.dat.data_ro) < 1e-12
    tangent, expected = assemble(solver.state.tangent), assemble(derivative(F_ufl, u))
    assert relative(tangent.petscmat[:, :], expected.petscmat[:, :]) < 1e-12


def test_weight_gradient_equals_the_written_out_adjoint():
    from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation

    mesh = UnitSquareMesh(6, 6)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    net = femnn.MLP(1, 4, 1, output="softplus", seed=2)
    bc = DirichletBC(V, 0, "on_boundary")
    x = SpatialCoordinate(mesh)
    target = x[0] * x[1]
    tight = {"snes_rtol": 1e-14, "snes_atol": 1e-15}

    continue_annotation()
    kappa = femnn.NeuralCoefficient(net, u, degree=4)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    femnn.solve(F == 0, u, bc, solver_parameters=tight)
    J = assemble((u - target) ** 2 * dx)
    pause_annotation()
    gradient = ReducedFunctional(J, Control(kappa.weights)).derivative().vector

    # By hand: J^T lambda = dJ/du, dJ/dw = -(dF/dw)^T lambda, with weights as UFL variables.
    w = [variable(Constant(value)) for value in kappa.weights.vector]
    (k,) = femnn.to_ufl(net, u, weights=w)
    F_ufl = k * inner(grad(u), grad(v)) * dx(degree=4) - 10 * v * dx
    multiplier = Function(V)
    solve(
        adjoint(derivative(F_ufl, u)) == derivative((u - target) ** 2 * dx, u),
        multiplier,
        bcs=DirichletBC(V, 0, "on_boundary"),
    )
    weighted = ufl.replace(F_ufl, {v: multiplier})
    expected = np.array([-assemble(ufl.diff(weighted, wi)) for wi in w])
    assert relative(gradient, expected) < 1e-12


def test_newton_converges_quadratically(capsys):
    mesh = UnitSquareMesh(32, 32)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 30, 30, 1, output="exp", init="normal", seed=0), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem, solver_parameters={"snes_rtol": 1e-13})
    norms = []
    solver.snes.setMonitor(lambda snes, iteration, norm: norms.append(norm))
    solver.solve()
    with capsys.disabled():
        print("\nNewton's residual norms:", " ".join(f"{n:.2e}" for n in norms))
    logs = np.diff(np.log(norms))
    orders = logs[1:] / logs[:-1]
    assert max(orders) > 1.8
    assert norms[-1] < 1e-12 * norms[0]


def test_networks_are_evaluated_once_for_each_iterate():
    mesh = UnitSquareMesh(8, 8)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 8, 1, output="softplus"), u)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    solver.solve()
    iterates = solver.snes.getIterationNumber() + 1
    assert kappa.evaluator.sweeps == {"value": 0, "derivative": iterates, "vjp": 0, "variation": 0}


class Law(torch.nn.Module):
    """A law that is known exactly, in a network's place."""

    def forward(self, x):
        return 1 + x**2


@pytest.mark.parametrize(
    ("make_mesh", "degree"),
    [
        (lambda n: UnitIntervalMesh(2 * n), 1),
        (lambda n: UnitSquareMesh(n, n), 1),
        (lambda n: UnitSquareMesh(n, n), 2),
        (lambda n: UnitSquareMesh(n, n, quadrilateral=True), 2),
        (lambda n: UnitCubeMesh(n // 2, n // 2, n // 2), 1),
        (lambda n: ExtrudedMesh(UnitSquareMesh(n // 2, n // 2, quadrilateral=True), n // 2), 1),
    ],
    ids=["interval", "P1", "P2", "Q2", "tetrahedra", "extruded"],
)
def test_manufactured_solution_converges_at_the_rate_of_the_element(make_mesh, degree):
    errors = []
    for n in (8, 16):
        mesh = make_mesh(n)
        V = FunctionSpace(mesh, "CG", degree)
        x = SpatialCoordinate(mesh)
        exact = cos(x[0]) * (1 + sum(sin(xi) for xi in list(x)[1:]))
        u, v = Function(V), TestFunction(V)
        kappa = femnn.NeuralCoefficient(Law(), u)
        f = -div((1 + exact**2) * grad(exact))
        F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx(degree=2 * degree + 4)
        bcs = [DirichletBC(V, exact, "on_boundary")]
        if mesh.extruded:
            bcs += [DirichletBC(V, exact, "top"), DirichletBC(V, exact, "bottom")]
        femnn.solve(F == 0, u, bcs, solver_parameters={"snes_rtol": 1e-11})
        errors.append(errornorm(exact, u))
    rate = np.log2(errors[0] / errors[1])
    assert rate > degree + 1 - 0.15, f"errors {errors}, rate {rate}"
