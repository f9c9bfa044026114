"""Averages over regions, fluxes through boundary parts and other integrals as observations."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *

import femnn

from .support import both_comms, check_derivatives, follow, wave


def two_regions(comm=COMM_WORLD):
    mesh = UnitSquareMesh(4, 4, comm=comm)
    x, _ = SpatialCoordinate(mesh)
    left = Function(FunctionSpace(mesh, "DG", 0)).interpolate(conditional(x < 0.5, 1, 0))
    right = Function(FunctionSpace(mesh, "DG", 0)).interpolate(conditional(x > 0.5, 1, 0))
    return RelabeledMesh(mesh, [left, right], [11, 12])


@pytest.fixture(scope="module")
def mesh():
    return two_regions()


@pytest.mark.parallel([1, 2, 3])
def test_averages(mesh):
    x, y = SpatialCoordinate(mesh)
    regions = {"left": 11, "right": 12, "both": (11, 12), "all": "everywhere", "top": ds(4)}
    averages = femnn.Averages(mesh, regions)
    assert averages.names == ("left", "right", "both", "all", "top")
    np.testing.assert_allclose(averages(x * y), [0.125, 0.375, 0.25, 0.25, 0.5])
    pairs = [[0.25, 1 / 3], [0.75, 1 / 3], [0.5, 1 / 3], [0.5, 1 / 3], [0.5, 1]]
    np.testing.assert_allclose(averages(as_vector([x, y**2])), pairs)


@pytest.mark.parallel([1, 3])
def test_fluxes(mesh):
    x, y = SpatialCoordinate(mesh)
    fluxes = femnn.Fluxes(mesh, {"left": 1, "right": 2, "all": "everywhere"})
    np.testing.assert_allclose(fluxes(as_vector([1 + x, y])), [-1, 2, 2])
    np.testing.assert_allclose(fluxes(1 + x), [1, 2, 6])


@pytest.mark.parallel([1, 2, 3])
def test_misfits_of_integrals_are_the_same_on_any_number_of_ranks():
    """In time; the flux has a law of the state, whose weights are a control."""
    found = []
    for comm in both_comms():
        get_working_tape().clear_tape()
        mesh = two_regions(comm)
        V = FunctionSpace(mesh, "CG", 1)
        start, c = wave(V), Constant(0.5)
        law = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, seed=1), start, measure=ds)
        times = [0.0, 0.7, 1.0]
        fluxes = femnn.Fluxes(mesh, {"left": 1, "rest": (2, 3, 4)})
        averages = femnn.Averages(mesh, {"left": 11, "right": 12})
        flow = femnn.Observations(fluxes, [[0.1, 0.2]] * 3, 0.3, times)
        storage = femnn.Observations(averages, [[0.1, np.nan]] * 3, 0.1, times)
        continue_annotation()
        one, two = flow.start(), storage.start()
        u = start
        for t in (0, 0.5, 1):
            one(-law * grad(u), t)
            two(u**2, t)
            u = follow(u * cos(c * u), V)
        J = one.misfit() + 2 * two.misfit()
        pause_annotation()
        weights = law.weights
        directions = [wave(V, 1), Constant(1.0), weights * 0 + 1]
        found.append([J, *check_derivatives(J, [start, c, weights], directions)])
    np.testing.assert_allclose(found[0], found[-1], rtol=1e-9)


def test_functionals(mesh):
    u = wave(FunctionSpace(mesh, "CG", 1))
    energies = femnn.Functionals(
        mesh, ["energy", "mass", "cube"], lambda u: [u**2 * dx, u * dx, femnn.assemble(u * dx) ** 3]
    )
    data = femnn.Observations(energies, [0.3, np.nan, 0.1], 0.1)
    continue_annotation()
    J = data.misfit(u)
    pause_annotation()
    values = [assemble(u**2 * dx), assemble(u * dx), assemble(u * dx) ** 3]
    np.testing.assert_allclose(energies(u), values)
    expected = 0.5 * ((values[0] - 0.3) ** 2 + (values[2] - 0.1) ** 2) / 0.1**2
    assert pytest.approx(expected) == J
    check_derivatives(J, [u], [wave(u.function_space(), 1)])
    assert data.scores(energies(u)).rows == ["energy", "cube", "all"]


def test_a_mesh_that_moves():
    mesh = UnitSquareMesh(2, 2)
    averages = femnn.Averages(mesh, {"all": "everywhere"})
    mesh.coordinates.dat.data_wo[...] *= 2
    np.testing.assert_allclose(averages(SpatialCoordinate(mesh)[0]), [1.0])


def test_wrong_regions(mesh):
    with pytest.raises(ValueError, match=r"'south' has no cells or facets.*99"):
        femnn.Averages(mesh, {"left": 11, "south": 99})
    with pytest.raises(TypeError, match="Fluxes got a list: wanted a dictionary"):
        femnn.Fluxes(mesh, [1, 2])
    with pytest.raises(ValueError, match="Averages got no names"):
        femnn.Averages(mesh, {})
    with pytest.raises(TypeError, match=r"got 1.5 as a subdomain"):
        femnn.Averages(mesh, {"left": 1.5})


def test_wrong_expressions(mesh):
    with pytest.raises(ValueError, match=r"Fluxes got an expression of shape \(3,\)"):
        femnn.Fluxes(mesh, {"left": 1})(as_vector([1, 2, 3]))
    with pytest.raises(TypeError, match="Averages got a str"):
        femnn.Averages(mesh, {"left": 11})("u")
    with pytest.raises(TypeError, match="Functionals got a list"):
        femnn.Functionals(mesh, ["a"], [dx])
    with pytest.raises(ValueError, match="returned 1 forms or numbers, wanted 2"):
        femnn.Functionals(mesh, ["a", "b"], lambda u: [u])(Constant(1.0))
