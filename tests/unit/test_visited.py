"""The range of a coefficient's operands over all ranks."""

import firedrake as fd
import numpy as np
import pytest
from mpi4py import MPI

import femnn
from femnn.parallel import range_over_ranks


@pytest.mark.parallel([1, 2, 3])
def test_operands_of_all_ranks():
    mesh = fd.UnitSquareMesh(5, 5)
    x, y = fd.SpatialCoordinate(mesh)
    space = fd.FunctionSpace(mesh, "DG", 0)
    u = fd.Function(space).interpolate(fd.conditional(x < 0.5, -2.0, 7.0))
    kappa = femnn.NeuralCoefficient(femnn.MLP(3, 2, 1), u, fd.as_vector((fd.Constant(3.0), y)))
    ranges = kappa.visited()
    assert ranges.shape == (3, 2)
    assert np.allclose(ranges[:2], [[-2, 7], [3, 3]])
    assert 0 < ranges[2, 0] < 0.1
    assert 0.9 < ranges[2, 1] < 1
    every = MPI.COMM_WORLD.allgather(ranges)
    assert all(np.array_equal(r, every[0]) for r in every)


@pytest.mark.parallel([1, 2])
def test_present_values_and_nothing_recorded():
    from firedrake.adjoint import continue_annotation, get_working_tape

    mesh = fd.UnitSquareMesh(3, 3)
    u = fd.Function(fd.FunctionSpace(mesh, "P", 1))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), u)
    assert np.allclose(kappa.visited(), [[0, 0]])
    u.assign(4.0)
    continue_annotation()
    assert np.allclose(kappa.visited(), [[4, 4]])
    assert get_working_tape().get_blocks() == []
    with pytest.raises(RuntimeError, match="out of date"):
        kappa.dat.data_ro  # noqa: B018


@pytest.mark.parallel([1, 3])
def test_a_gradient_is_what_it_was_before():
    """Reading the range between recording and the gradient changes neither."""
    from firedrake.adjoint import Control, ReducedFunctional, continue_annotation, pause_annotation

    mesh = fd.UnitSquareMesh(3, 3)
    u = fd.Function(fd.FunctionSpace(mesh, "P", 1)).interpolate(fd.SpatialCoordinate(mesh)[0])
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), u)
    continue_annotation()
    J = femnn.assemble(kappa**2 * fd.dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    before = Jhat.derivative().vector.copy()
    u.assign(2.0)
    assert np.allclose(kappa.visited(), [[2, 2]])
    assert np.allclose(Jhat.derivative().vector, before, rtol=1e-13)


@pytest.mark.parallel([1, 3])
def test_ranks_without_points():
    """On a mesh of one cell only one rank has points; on facets of a closed curve none has."""
    mesh = fd.UnitIntervalMesh(3)
    x = fd.SpatialCoordinate(mesh)[0]
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), 1 + 2 * x, measure=fd.ds)
    assert np.allclose(kappa.visited(), [[1, 3]])
    ring = fd.PeriodicIntervalMesh(6, 1.0)
    z = fd.Function(fd.FunctionSpace(ring, "P", 1)).assign(5.0)
    nowhere = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), z, measure=fd.ds)
    assert np.isnan(nowhere.visited()).all()


@pytest.mark.parallel([1, 2, 3])
def test_what_is_not_a_number_on_one_rank_is_seen_on_all():
    comm = MPI.COMM_WORLD
    last = comm.rank == comm.size - 1
    rows = np.array([[1.0, np.nan if last else 2.0]]) if last or comm.rank == 0 else np.ones((0, 2))
    ranges = range_over_ranks(comm, rows)
    assert ranges[0].tolist() == [1.0, 1.0]
    assert np.isnan(ranges[1]).all()


@pytest.mark.parallel([1, 2, 3])
def test_a_hole_and_an_end_of_what_was_visited():
    """u has values in [0, 1] and [2, 3]: between and beyond, a law is a guess."""
    mesh = fd.UnitIntervalMesh(200)
    (x,) = fd.SpatialCoordinate(mesh)
    u = fd.Function(fd.FunctionSpace(mesh, "DG", 1))
    u.interpolate(fd.conditional(x < 0.5, 2 * x, 1 + 2 * x))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), u, degree=3)
    seen = femnn.Visited(kappa)
    assert np.allclose(seen.range, kappa.visited())
    values = [[-0.1, 0.5], [1.5, 2.5]]
    assert np.array_equal(seen.contains(values), [[False, True], [False, True]])
    assert seen.outside(kappa) == 0.0
    u.interpolate(4 * x)  # in [0, 1] for a quarter of the points, in [2, 3] for another
    assert seen.outside(kappa) == pytest.approx(0.5, abs=0.05)
    assert len(set(MPI.COMM_WORLD.allgather(seen.outside(kappa)))) == 1
    seen.add()
    assert seen.contains(1.5)
    assert seen.contains(3.9)
    assert not seen.contains(4.5)


@pytest.mark.parallel([1, 2])
def test_combinations_that_never_were():
    """Two operands on a curve: their box holds much that was not visited."""
    mesh = fd.UnitIntervalMesh(300)
    (x,) = fd.SpatialCoordinate(mesh)
    kappa = femnn.NeuralCoefficient(femnn.MLP(2, 2, 1), x, x**2, degree=3)
    seen = femnn.Visited(kappa)
    assert seen.contains([0.2, 0.9], [0.04, 0.81]).all()
    assert not seen.contains(0.2, 0.81)
    other = femnn.NeuralCoefficient(kappa.net, x, 1 - x, degree=3)
    assert seen.outside(other) > 0.7
    with pytest.raises(ValueError, match="contains got 1 inputs, the law has 2"):
        seen.contains(0.2)


def test_a_set_that_grows_from_one_value():
    """As in a time loop that begins at rest: cells become wider with the range."""
    mesh = fd.UnitIntervalMesh(50)
    (x,) = fd.SpatialCoordinate(mesh)
    u = fd.Function(fd.FunctionSpace(mesh, "P", 1)).assign(0.3)
    seen = femnn.Visited(femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), u, degree=3))
    for size in (1e-3, 0.1, 1.0, 10.0):
        u.interpolate(size * x)
        seen.add()
    assert seen.contains(np.linspace(0.01, 9.9, 300)).all()
    assert not seen.contains(10.1)


def test_what_was_never_a_law():
    mesh = fd.UnitIntervalMesh(3)
    u = fd.Function(fd.FunctionSpace(mesh, "P", 1)).assign(np.nan)
    with pytest.raises(TypeError, match="Visited got a Function: wanted NeuralCoefficients"):
        femnn.Visited(u)
    with pytest.raises(ValueError, match=r"an operand of .* is NaN or infinite"):
        femnn.Visited(femnn.NeuralCoefficient(femnn.MLP(1, 2, 1), u))
