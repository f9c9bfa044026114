"""States at quadrature points."""

import numpy as np
import pytest
from firedrake import *

import femnn

MESHES = {
    "interval": lambda: UnitIntervalMesh(3),
    "triangles": lambda: UnitSquareMesh(2, 3),
    "quadrilaterals": lambda: UnitSquareMesh(2, 2, quadrilateral=True),
    "tetrahedra": lambda: UnitCubeMesh(1, 2, 1),
    "prisms": lambda: ExtrudedMesh(UnitSquareMesh(2, 1), 2),
    "bricks": lambda: ExtrudedMesh(UnitSquareMesh(2, 1, quadrilateral=True), 2),
    "columns": lambda: ExtrudedMesh(UnitIntervalMesh(2), 3),
    "sphere": lambda: IcosahedralSphereMesh(1.0, 1),
}


@pytest.mark.parametrize("cells", MESHES)
def test_values_are_at_the_points_of_the_rule(cells):
    """A polynomial of the degree is integrated exactly, and a coefficient has the same points."""
    mesh = MESHES[cells]()
    x = SpatialCoordinate(mesh)
    Q = femnn.QuadratureSpace(mesh, 3)
    state = Function(Q).interpolate(1 + x[0] ** 3)
    assert femnn.assemble(state * dx) == pytest.approx(
        assemble((1 + x[0] ** 3) * dx(degree=3)), rel=1e-13
    )
    law = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=1), x[0], degree=3)
    assert law.function_space() == Q
    assert np.shape(law.update().dat.data_ro) == np.shape(state.dat.data_ro)
    matrices = Function(femnn.QuadratureSpace(mesh, 3, (2, 3)))
    assert matrices.dat.data_ro.shape == (len(state.dat.data_ro), 2, 3)


@pytest.mark.parametrize("cells", ["triangles", "prisms", "bricks"])
def test_a_pointwise_equation_lives_there(cells):
    mesh = MESHES[cells]()
    x = SpatialCoordinate(mesh)
    s = Function(femnn.QuadratureSpace(mesh, 2), name="s").interpolate(x[0])
    pair = Function(femnn.QuadratureSpace(mesh, 2, (2,))).interpolate(as_vector([x[1], 1 + x[0]]))
    net = femnn.MLP(3, 4, 3, seed=1)
    ode = femnn.PointwiseODE(net, [s, pair], dt=Constant(0.1), method="forward_euler")
    rate = femnn.to_ufl(net, s, pair[0], pair[1])
    before = Function(s.function_space()).interpolate(s + 0.1 * rate[0])
    ode.step()
    assert np.allclose(s.dat.data_ro, before.dat.data_ro, rtol=1e-12)
    assert np.ptp(s.dat.data_ro) > 0.1


@pytest.mark.parametrize("degree", [-1, 2.5])
def test_degrees_are_whole_numbers(degree):
    with pytest.raises(ValueError, match=rf"got degree={degree}: wanted a whole number"):
        femnn.QuadratureSpace(UnitSquareMesh(1, 1), degree)
