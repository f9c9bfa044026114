"""Stations: values in the user's order on any number of ranks, recorded; what is refused."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn
from femnn.tape.squares import sum_of_squares

from .support import POINTS, both_comms, check_derivatives, wave


@pytest.fixture(scope="module")
def mesh():
    return UnitSquareMesh(4, 4)


def exact(points):
    return points[:, 0] ** 2 - 2 * points[:, 1]


@pytest.mark.parallel([1, 2, 3])
def test_values_come_in_the_order_of_the_points(mesh):
    V, W = FunctionSpace(mesh, "CG", 2), VectorFunctionSpace(mesh, "DG", 1)
    x, y = SpatialCoordinate(mesh)
    u, w = Function(V).interpolate(x**2 - 2 * y), Function(W).interpolate(as_vector([y, x]))
    stations, swapped = femnn.Stations(mesh, POINTS), POINTS[:, ::-1]
    assert stations.names == ("0", "1", "2", "3", "4", "5")
    np.testing.assert_allclose(stations(u), exact(POINTS), atol=1e-14)
    np.testing.assert_allclose(stations(w), swapped, atol=1e-14)
    np.testing.assert_allclose(stations(3 * x + u), 3 * POINTS[:, 0] + exact(POINTS), atol=1e-14)
    outer_product = swapped[:, :, None] * swapped[:, None, :]
    np.testing.assert_allclose(stations(outer(w, w)), outer_product, atol=1e-14)
    np.testing.assert_allclose(stations(2.5), np.full(len(POINTS), 2.5))


@pytest.mark.parallel([1, 3])
def test_several_unknowns(mesh):
    Z = FunctionSpace(mesh, "CG", 2) * VectorFunctionSpace(mesh, "CG", 1)
    z, (x, y) = Function(Z), SpatialCoordinate(mesh)
    z.subfunctions[0].interpolate(x**2 - 2 * y)
    z.subfunctions[1].interpolate(as_vector([y, x]))
    stations = femnn.Stations(mesh, POINTS)
    p, w = split(z)
    np.testing.assert_allclose(stations(p * w[0]), exact(POINTS) * POINTS[:, 1], atol=1e-14)
    whole = np.column_stack([exact(POINTS), POINTS[:, ::-1]])
    np.testing.assert_allclose(stations(z), whole, atol=1e-14)


@pytest.mark.parallel([1, 2, 3])
def test_derivatives_are_the_same_on_any_number_of_ranks():
    """For fields, vector fields, a Constant and weights; a station on a corner of the mesh."""
    found = []
    for comm in both_comms():
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(4, 4, comm=comm)
        u = wave(FunctionSpace(mesh, "CG", 2))
        w, c = wave(VectorFunctionSpace(mesh, "CG", 1)), Constant(0.3)
        net = femnn.MLP(1, 5, 1, seed=1)
        law = femnn.NeuralCoefficient(net, u, space=u.function_space())
        continue_annotation()
        values = femnn.Stations(mesh, POINTS)(u**2 * w + sin(c) * law * w + c**2 * u * w)
        J = sum_of_squares((values - 0.2) * 2.0)
        pause_annotation()
        directions = [wave(u.function_space(), 1), wave(w.function_space(), 2), Constant(0.7)]
        directions.append(law.weights.like(np.linspace(-1, 1, len(law.weights))))
        products = check_derivatives(J, [u, w, c, law.weights], directions)
        found.append([float(J), *products])
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-10)


@pytest.mark.parallel([1, 3])
def test_ranks_without_a_station():
    found = []
    for comm in both_comms():
        get_working_tape().clear_tape()
        u = wave(FunctionSpace(UnitSquareMesh(4, 4, comm=comm), "CG", 1))
        continue_annotation()
        J = sum_of_squares(femnn.Stations(u.function_space().mesh(), [[0.97, 0.99]])(exp(u)))
        pause_annotation()
        (product,) = check_derivatives(J, [u], [wave(u.function_space(), 1)])
        found.append([float(J), product])
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-10)


def test_a_tape_that_is_run_again_leaves_the_users_values(mesh):
    u = wave(FunctionSpace(mesh, "CG", 1))
    stations = femnn.Stations(mesh, POINTS)
    continue_annotation()
    values = stations(u**2)
    J = sum_of_squares(values)
    pause_annotation()
    before = np.asarray(values).copy()
    Jhat = ReducedFunctional(J, Control(u))
    assert float(Jhat(Function(u.function_space()).assign(2 * u))) == pytest.approx(16 * J)
    np.testing.assert_array_equal(values, before)
    values.assign(0 * before)
    assert float(Jhat(u)) == pytest.approx(J)


def test_values_are_numpys_and_torchs(mesh):
    """Arithmetic, and a module between values at stations: a learned sensor."""
    u = wave(VectorFunctionSpace(mesh, "CG", 1))
    stations = femnn.Stations(mesh, POINTS)
    net = femnn.MLP(2, 3, 1, seed=1)
    array = np.asarray(stations(u))
    assert array.shape == (len(POINTS), 2)
    continue_annotation()
    values = stations(u) - array + 2 * stations(u)
    read = femnn.apply(net, values, into=femnn.tape.vector.Vector(np.zeros((len(POINTS), 1))))
    J = (read * read * read).sum()
    pause_annotation()
    np.testing.assert_allclose(values, 2 * array)
    weights = femnn.Weights.of(net)
    check_derivatives(J, [u, weights], [wave(u.function_space(), 1), weights * 0 + 1])


def test_expressions_are_kept_as_long_as_the_tape_uses_them(mesh):
    u, stations = wave(FunctionSpace(mesh, "CG", 1)), femnn.Stations(mesh, POINTS)
    continue_annotation()
    for _ in range(3):
        stations(u**2)
        stations(u)
    pause_annotation()
    assert len(stations._kept) == 2
    get_working_tape().clear_tape()
    assert len(stations._kept) == 1


def test_a_profile(mesh):
    profile = femnn.Stations.along(mesh, (0.5, 0), (0.5, 1), 5, name="borehole")
    assert profile.names[4] == "borehole 4"
    np.testing.assert_allclose(profile(SpatialCoordinate(mesh)[1] + 1), np.linspace(1, 2, 5))
    with pytest.raises(ValueError, match="n=1"):
        femnn.Stations.along(mesh, (0.5, 0), (0.5, 1), 1)


def test_one_dimension():
    mesh = UnitIntervalMesh(3)
    stations = femnn.Stations(mesh, [0.9, 0.2])
    np.testing.assert_allclose(stations(SpatialCoordinate(mesh)[0]), [0.9, 0.2])


@pytest.mark.parallel([1, 2, 3])
def test_points_outside_are_named(mesh):
    points = [[0.5, 0.5], [1.5, 0.5], [0.2, -3.0]]
    with pytest.raises(
        ValueError, match=r"'b at \[1.5, 0.5\]', 'c at .*within \[0, 1\] x \[0, 1\]"
    ):
        femnn.Stations(mesh, points, names="abc")


@pytest.mark.parametrize(
    ("points", "names", "message"),
    [
        ([[0.1, 0.2], [0.3, 0.4]], ["a", "a"], "'a' stands more than once"),
        ([[0.1, 0.2], [0.3, 0.4]], ["a"], "got 1 names, wanted 2"),
        ([0.1, 0.2], None, r"shape \(2,\): wanted \(n, 2\)"),
        ([[0.1, 0.2, 0.3]], None, r"shape \(1, 3\): wanted \(n, 2\)"),
        (np.zeros((0, 2)), None, r"shape \(0, 2\): wanted \(n, 2\)"),
        ([[0.1, np.nan]], None, r"points \[0\] are NaN or infinite"),
        ([["a", "b"]], None, "no array of numbers"),
        ([[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]], None, r"points \[0, 2\] are the same"),
    ],
)
def test_wrong_points_and_names(mesh, points, names, message):
    with pytest.raises(ValueError, match=message):
        femnn.Stations(mesh, points, names)


def test_two_instruments_at_one_place(mesh):
    assert len(femnn.Stations(mesh, [[0.1, 0.2]] * 2, ["old", "new"])) == 2


def test_what_has_no_values_at_points(mesh):
    stations, u = femnn.Stations(mesh, POINTS), wave(FunctionSpace(mesh, "CG", 1))
    law = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1), u)
    with pytest.raises(NotImplementedError, match="at quadrature points"):
        stations(law * u)
    with pytest.raises(TypeError, match="got a str: wanted a Function or an expression"):
        stations("u")


def test_a_mesh_that_has_moved():
    mesh = UnitSquareMesh(2, 2)
    stations, u = femnn.Stations(mesh, POINTS), wave(FunctionSpace(mesh, "CG", 1))
    mesh.coordinates.dat.data_wo[...] *= 2
    with pytest.raises(RuntimeError, match="the mesh has moved"):
        stations(u)


@pytest.mark.parallel(2)
def test_points_that_differ_between_ranks(mesh):
    with pytest.raises(RuntimeError, match="points or names differ between ranks"):
        femnn.Stations(mesh, POINTS + 1e-12 * COMM_WORLD.rank * (POINTS < 0.9))
