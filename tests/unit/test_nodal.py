"""Nodal values without interpolation: the same as with it, and only where they are nodal."""

import firedrake as fd
import numpy as np
import pytest

from femnn.fields.derivatives import derivative
from femnn.points.cells import CellPoints
from femnn.points.nodes import NodePoints, nodal_rows, nodal_transpose
from femnn.points.operands import flatten


def _rows(expression, at):
    return nodal_rows(expression, at.mesh, at.element, at.n_points)


def _transpose(change, at):
    return nodal_transpose(change, at.mesh, at.element)


@pytest.fixture
def fields():
    mesh = fd.UnitSquareMesh(3, 2)
    spaces = [
        fd.FunctionSpace(mesh, "P", 1),
        fd.VectorFunctionSpace(mesh, "P", 1, dim=3),
        fd.TensorFunctionSpace(mesh, "P", 1),
    ]
    x, y = fd.SpatialCoordinate(mesh)
    values = [x - 2 * y, fd.as_vector([x, y, 3 * x]), fd.as_tensor([[1 + x, 0], [y, x + y]])]
    return [fd.Function(V).interpolate(f) for V, f in zip(spaces, values, strict=True)]


@pytest.mark.parallel([1, 2])
def test_rows_are_those_of_the_interpolation(fields):
    f, g, t = fields
    c = fd.Constant([0.3, 0.4])
    expression = flatten([g, c, f, t, fd.Constant(2.0)])
    at = NodePoints(f.function_space())
    read = _rows(expression, at)
    for _ in range(2):
        expected = fd.assemble(fd.interpolate(expression, at.space(expression.ufl_shape)))
        np.testing.assert_allclose(read(), expected.dat.data_ro, atol=1e-14)
        f.assign(7.0)
        c.assign([5.0, 6.0])


@pytest.mark.parallel([1, 2])
def test_transpose_carries_rows_to_each_field(fields):
    f, g, t = fields
    expression = flatten([g, f, g[1], t])
    at = NodePoints(f.function_space())
    cotangent = np.random.default_rng(fd.COMM_WORLD.rank).normal(size=(f.dat.data_ro.shape[0], 9))
    columns = {f: cotangent[:, 3], t: cotangent[:, 5:].reshape(-1, 2, 2)}
    columns[g] = cotangent[:, :3] + cotangent[:, 4:5] * [0, 1, 0]
    for field, expected in columns.items():
        test = fd.TestFunction(field.function_space())
        carry = _transpose(derivative(expression, field, test), at)
        for factor in (1.0, -2.0):
            found = carry(factor * cotangent)
            assert found.function_space() == field.function_space().dual()
            np.testing.assert_allclose(found.dat.data_ro, factor * expected, atol=1e-14)


def test_all_else_is_left_to_the_interpolation(fields):
    f, g, _ = fields
    mesh = f.function_space().mesh()
    at = NodePoints(f.function_space())
    finer = fd.Function(fd.FunctionSpace(mesh, "P", 2))
    discontinuous = fd.Function(fd.FunctionSpace(mesh, "DG", 1))
    elsewhere = fd.Function(fd.FunctionSpace(fd.UnitSquareMesh(3, 2), "P", 1))
    mixed = fd.Function(fd.MixedFunctionSpace([f.function_space()] * 2))
    for other in (2 * f, f.dx(0), finer, discontinuous, elsewhere, mixed, g[0] * g[1]):
        assert _rows(flatten([f, other]), at) is None
    test = fd.TestFunction(f.function_space())
    for expression, field in ((2 * f, f), (f**2, f)):
        change = derivative(flatten([expression]), field, test)
        assert _transpose(change, at) is None
    assert _rows(flatten([f]), CellPoints(mesh, 2)) is None


@pytest.mark.parallel(3)
def test_a_rank_without_nodes():
    mesh = fd.UnitIntervalMesh(1)
    V = fd.VectorFunctionSpace(mesh, "P", 1, dim=2)
    f = fd.Function(V).assign(fd.Constant([1.0, 2.0]))
    at = NodePoints(V)
    rows = _rows(flatten([f, fd.Constant(3.0)]), at)()
    assert mesh.comm.allreduce(len(rows)) == 2
    assert min(mesh.comm.allgather(len(rows))) == 0
    assert (rows == [1.0, 2.0, 3.0]).all()
    change = derivative(flatten([f]), f, fd.TestFunction(V))
    carried = _transpose(change, at)(np.ones((len(rows), 2)))
    assert carried.dat.data_ro.shape == (len(rows), 2)
