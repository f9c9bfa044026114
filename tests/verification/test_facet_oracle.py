"""Networks on facets of every kind of mesh, against the same networks written out in UFL."""

import numpy as np
import pytest
from firedrake import *

import femnn

MESHES = {
    "interval": (lambda: UnitIntervalMesh(5), [(ds, dS)]),
    "triangles": (lambda: UnitSquareMesh(3, 2), [(ds, dS)]),
    "quadrilaterals": (lambda: UnitSquareMesh(3, 2, quadrilateral=True), [(ds, dS)]),
    "tetrahedra": (lambda: UnitCubeMesh(2, 1, 1), [(ds, dS)]),
    "prisms": (
        lambda: ExtrudedMesh(UnitSquareMesh(2, 1), 2),
        [(ds_v, dS_v), (ds_t, dS_h), (ds_b, dS_h)],
    ),
    "extruded quadrilaterals": (
        lambda: ExtrudedMesh(UnitSquareMesh(2, 1, quadrilateral=True), 2),
        [(ds_v, dS_v), (ds_t, dS_h)],
    ),
    "extruded interval": (
        lambda: ExtrudedMesh(UnitIntervalMesh(3), 2),
        [(ds_v, dS_v), (ds_b, dS_h)],
    ),
}
CASES = [(name, i) for name, (_, measures) in MESHES.items() for i in range(len(measures))]


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(("name", "which"), CASES, ids=[f"{n}-{i}" for n, i in CASES])
def test_residual_and_tangent_equal_the_written_out_network(name, which):
    make_mesh, measures = MESHES[name]
    outer, inner_ = measures[which]
    mesh = make_mesh()
    V = FunctionSpace(mesh, "DG", 1)
    x = SpatialCoordinate(mesh)
    n = FacetNormal(mesh)
    u, v = Function(V).interpolate(sin(2 * x[0]) + list(x)[-1] * x[0]), TestFunction(V)
    u.dat.data_wo[...] += 0.3 * np.random.default_rng(0).standard_normal(u.dat.data_ro.shape)
    law = femnn.MLP(2, 3, 1, output="softplus", seed=1)
    both = femnn.MLP(3, 3, 2, seed=2)
    transfer = [u, x[0]]
    sides = [u("+"), u("-"), dot(avg(grad(u)), n("+"))]

    def residual(a, b, outer, inner_):
        F = u**2 * v * dx + a * (u - 1) * v * outer
        return F + b[0] * jump(v) * inner_ + b[1] * (u("-") * v("+") + v("-")) * inner_

    a = femnn.NeuralCoefficient(law, *transfer, measure=outer, degree=3)
    b = femnn.NeuralCoefficient(both, *sides, measure=inner_, degree=3)
    F = residual(a, b("+"), outer, inner_)
    written = residual(
        femnn.to_ufl(law, *transfer)[0],
        femnn.to_ufl(both, *sides),
        outer(degree=3),
        inner_(degree=3),
    )
    solver = femnn.NeuralVariationalSolver(femnn.NeuralVariationalProblem(F, u))
    solver.state.load({})
    solver.state.evaluate()
    found, expected = assemble(solver.state.residual), assemble(written)
    assert relative(found.dat.data_ro, expected.dat.data_ro) < 1e-12
    found, expected = assemble(solver.state.tangent), assemble(derivative(written, u))
    assert relative(found.petscmat[:, :], expected.petscmat[:, :]) < 1e-12


def test_a_mesh_that_has_moved():
    mesh = UnitSquareMesh(3, 2)
    x, y = SpatialCoordinate(mesh)
    u = Function(FunctionSpace(mesh, "CG", 1)).interpolate(x + y)
    net = femnn.MLP(1, 3, 1, seed=1)
    kappa = femnn.NeuralCoefficient(net, u, measure=ds, degree=3)
    mesh.coordinates.interpolate(as_vector([2 * x, y * (1 + x)]))
    expected = assemble(femnn.to_ufl(net, u)[0] * ds(degree=3))
    assert femnn.assemble(kappa * ds) == pytest.approx(expected, rel=1e-12)


def test_operands_that_jump_must_say_their_side():
    u = Function(FunctionSpace(UnitSquareMesh(2, 2), "DG", 1))
    with pytest.raises(ValueError, match=r"must be restricted. Write u\('\+'\), u\('-'\), avg"):
        femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), u, measure=dS)


def test_measures_that_the_mesh_does_not_have_are_named():
    flat = UnitSquareMesh(2, 2)
    with pytest.raises(ValueError, match=r"measure ds_t on triangle cells.*can be dx, ds, dS"):
        femnn.NeuralCoefficient(femnn.MLP(2, 3, 1), *SpatialCoordinate(flat), measure=ds_t)
    solid = ExtrudedMesh(flat, 1)
    with pytest.raises(
        ValueError, match=r"measure ds on .*can be dx, ds_v, ds_b, ds_t, dS_v, dS_h"
    ):
        femnn.NeuralCoefficient(femnn.MLP(3, 3, 1), *SpatialCoordinate(solid), measure=ds)


def test_no_gradient_in_space_between_cells():
    mesh = UnitSquareMesh(2, 2)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 3, 1), *SpatialCoordinate(mesh), measure=dS)
    with pytest.raises(NotImplementedError, match="on interior facets has no gradient in space"):
        kappa.grad()
