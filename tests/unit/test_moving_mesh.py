"""Meshes that move while the tape records, and derivatives for coordinates."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}


class Model:
    """Two solves of one solver with a move of the mesh between; networks of u and of x."""

    def __init__(self, move):
        self.mesh = UnitSquareMesh(5, 4)
        V = FunctionSpace(self.mesh, "CG", 1)
        x, y = SpatialCoordinate(self.mesh)
        self.u, v = Function(V), TestFunction(V)
        law = femnn.MLP(1, 6, 1, output="softplus", seed=1)
        self.kappa = femnn.NeuralCoefficient(law, self.u)
        self.source = femnn.NeuralCoefficient(femnn.MLP(2, 6, 1, seed=2), x, y)
        F = self.kappa * inner(grad(self.u), grad(v)) * dx - (3 + self.source) * v * dx
        bc = DirichletBC(V, 0.2 * x, "on_boundary")
        problem = femnn.NeuralVariationalProblem(F, self.u, bc)
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
        self.start = self.mesh.coordinates.copy(deepcopy=True)
        self.J = 0
        continue_annotation()
        for step in range(3):
            solver.solve()
            self.J += femnn.assemble((self.u**2 + self.source**2) * dx)
            if step < 2:
                move(self, 1.5)
        pause_annotation()
        self.weights = [self.kappa.weights, self.source.weights]
        self.Jhat = ReducedFunctional(self.J, [Control(w) for w in self.weights])


def recorded(model, factor):
    model.mesh.coordinates.assign(factor * model.mesh.coordinates)


def unrecorded(model, factor):
    with stop_annotating():
        recorded(model, factor)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("move", [recorded, unrecorded])
def test_each_block_is_evaluated_on_the_mesh_as_it_was(move):
    model = Model(move)
    moved = model.mesh.coordinates.dat.data_ro.copy()
    assert np.abs(moved).max() == pytest.approx(1.5**2)
    away = [w.like(1.2 * w.vector) for w in model.weights]
    model.Jhat(away)
    assert float(model.Jhat(model.weights)) == pytest.approx(float(model.J), rel=1e-10)
    rng = np.random.default_rng(0)
    directions = [w.like(rng.standard_normal(len(w))) for w in model.weights]
    results = taylor_to_dict(model.Jhat, away, directions)
    assert min(results["R1"]["Rate"]) > 1.95
    assert min(results["R2"]["Rate"]) > 2.9
    np.testing.assert_array_equal(model.mesh.coordinates.dat.data_ro, moved)


@pytest.mark.parallel([1, 2])
def test_a_mesh_that_has_moved_since_is_left_where_it_is():
    model = Model(lambda model, factor: None)
    at_start, gradient = float(model.J), model.Jhat.derivative()[0].vector
    model.mesh.coordinates.assign(2 * model.start)
    model.Jhat([w.like(1.2 * w.vector) for w in model.weights])
    assert float(model.Jhat(model.weights)) == pytest.approx(at_start, rel=1e-10)
    np.testing.assert_allclose(model.Jhat.derivative()[0].vector, gradient, rtol=1e-9)
    np.testing.assert_array_equal(model.mesh.coordinates.dat.data_ro, 2 * model.start.dat.data_ro)


def test_shape_derivatives_of_functionals_without_networks():
    mesh = UnitSquareMesh(5, 4)
    x, y = SpatialCoordinate(mesh)
    shift = Function(mesh.coordinates.function_space())
    continue_annotation()
    mesh.coordinates.assign(mesh.coordinates + shift)
    J = femnn.assemble((1 + x**2 * y) * dx)
    pause_annotation()
    direction = Function(shift.function_space()).interpolate(as_vector([x * y, y**2]))
    Jhat = ReducedFunctional(J, Control(shift))
    assert abs(Jhat.derivative().dat.data_ro).max() > 0.01
    assert taylor_test(Jhat, shift, direction) > 1.95


@pytest.mark.parametrize("where", ["solve", "functional", "coefficient"])
def test_derivatives_for_coordinates_through_networks_are_refused(where):
    mesh = UnitSquareMesh(4, 3)
    V = FunctionSpace(mesh, "CG", 1)
    x, _ = SpatialCoordinate(mesh)
    shift, u, v = Function(mesh.coordinates.function_space()), Function(V), TestFunction(V)
    continue_annotation()
    mesh.coordinates.assign(mesh.coordinates + shift)
    if where == "solve":
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
        F = kappa * inner(grad(u), grad(v)) * dx - v * dx
        femnn.solve(F == 0, u, DirichletBC(V, 0, 1))
        J = assemble(u * dx)
    elif where == "functional":
        J = femnn.assemble(femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), u) * dx)
    else:
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), x, space=V)
        femnn.assemble(kappa * dx)
        J = assemble(kappa * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(shift))
    with pytest.raises(NotImplementedError, match=r"coordinates of a mesh .* firedrake.assemble"):
        Jhat.derivative()
    with pytest.raises(NotImplementedError, match=r"coordinates of a mesh .* firedrake.assemble"):
        Jhat.tlm(Function(shift.function_space()).assign(0.1))


def test_a_control_that_is_the_coordinates_is_refused():
    mesh = UnitSquareMesh(4, 3)
    u = Function(FunctionSpace(mesh, "CG", 1)).assign(1.0)
    continue_annotation()
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(u), Control(mesh.coordinates)])
    for use in (Jhat.derivative, lambda: Jhat([u, mesh.coordinates.copy(deepcopy=True)])):
        with pytest.raises(NotImplementedError, match=r"coordinates of a mesh .* firedrake.assem"):
            use()
    assert ReducedFunctional(J, Control(u)).derivative().dat.data_ro.sum() == pytest.approx(2.0)
