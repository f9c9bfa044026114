"""fit over fields and Constants beside weights: kinds, inner products, bounds, TAO."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI
from pyadjoint import AdjFloat

import femnn
from femnn.training.controls import ControlVector
from tests.verification.problems.evolution import all_controls


def recorded(build, *args, **kwargs):
    """Record a functional; returns it with its controls."""
    continue_annotation()
    J, controls = build(*args, **kwargs)
    pause_annotation()
    return ReducedFunctional(J, [Control(c) for c in controls]), controls


def every_kind(comm=MPI.COMM_SELF):
    """A functional whose minimum is known, of controls of every kind."""
    mesh = UnitSquareMesh(3, 2, comm=comm)
    x, y = SpatialCoordinate(mesh)
    V, W = FunctionSpace(mesh, "CG", 2), VectorFunctionSpace(mesh, "DG", 1)
    R = FunctionSpace(mesh, "R", 0)
    f, v, r = Function(V, name="f"), Function(W, name="v"), Function(R, name="r").assign(3.0)
    w = Function(VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "CG", 1) * R, name="w")
    c, a = Constant(0.5, name="c"), Constant([[1.0, 2.0], [3.0, 4.0]], name="a")
    q = Function(femnn.QuadratureSpace(mesh, 2), name="q")
    weights = femnn.Weights.of(femnn.MLP(1, 3, 1, seed=1), comm=comm)
    z, p, s = split(w)
    J = femnn.assemble(
        ((f - x * y) ** 2 + inner(v - as_vector([x, y]), v - as_vector([x, y])) + (r - 2) ** 2) * dx
        + (inner(z, z - 2 * as_vector([y, x])) + (p - x) ** 2 + (s + 1) ** 2) * dx
        + ((c - 1) ** 2 + inner(a - Identity(2), a - Identity(2))) * dx(mesh)
        + (q - 3) ** 2 * dx(degree=2)
    )
    return J + weights.squared_norm(), [weights, f, v, r, w, c, a, q]


def numbers_of(value):
    """A value's numbers on this rank."""
    if isinstance(value, femnn.Weights):
        return value.vector.copy()
    parts = [value] if isinstance(value, Constant) else value.subfunctions
    return np.concatenate([part.dat.data_ro.ravel() for part in parts])


@pytest.mark.parallel([1, 2, 3])
def test_controls_of_every_kind_as_one_vector():
    comm = MPI.COMM_WORLD
    Jhat, controls = recorded(every_kind, comm)
    vector = ControlVector(Jhat)
    spaces = [c.function_space() for c in controls if isinstance(c, Function)]
    assert len(vector) == len(controls[0]) + 1 + 4 + sum(V.dim() for V in spaces)
    rng = np.random.default_rng(0)
    x = comm.bcast(vector.read() + rng.standard_normal(len(vector)))
    vector.write(x)
    assert np.array_equal(vector.read(), x)
    assert len(set(comm.allgather(vector.read().tobytes()))) == 1
    for held, new in zip(controls, vector.objects(x), strict=True):
        assert np.array_equal(numbers_of(held), numbers_of(new))
        assert type(new).__name__ == type(held).__name__


@pytest.mark.parallel([1, 2, 3])
def test_every_kind_is_left_at_the_minimum():
    comm = MPI.COMM_WORLD
    Jhat, controls = recorded(every_kind, comm)
    result = femnn.fit(Jhat, maxiter=100, gtol=1e-7, progress=False)
    assert result.reason == "converged"
    _, f, v, r, w, c, a, q = controls
    mesh = f.function_space().mesh()
    x, y = SpatialCoordinate(mesh)
    assert errornorm(assemble(interpolate(x * y, f.function_space())), f) < 1e-5
    assert norm(v - as_vector([x, y])) < 1e-5
    assert norm(w.sub(0) - as_vector([y, x])) < 1e-5
    assert norm(w.sub(1) - x) < 1e-5
    assert float(r) == pytest.approx(2.0, abs=1e-5)
    assert float(w.sub(2)) == pytest.approx(-1.0, abs=1e-5)
    assert float(c) == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(a.values().reshape(2, 2), np.eye(2), atol=1e-5)
    assert np.allclose(q.dat.data_ro, 3.0, atol=1e-5)
    for held, found in zip(controls, result.controls, strict=True):
        assert np.array_equal(numbers_of(held), numbers_of(found))
    assert np.array_equal(result.weights, controls[0].vector)
    assert np.allclose(result.weights, 0.0, atol=1e-5)
    assert Jhat(result.controls) == pytest.approx(result.loss, rel=1e-10)


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_training_with_fields_does_not_depend_on_ranks(method):
    comm = MPI.COMM_WORLD
    found = []
    for where in (comm, MPI.COMM_SELF):
        Jhat, controls = recorded(all_controls, where)
        result = femnn.fit(Jhat, method, maxiter=5, progress=False)
        assert result.loss < result.initial_loss
        found.append([s.loss for s in result.history])
        derivatives = [d._ad_copy() for d in Jhat.derivative()]
        assert Jhat(controls) == pytest.approx(result.loss, rel=1e-10)
        for before, now in zip(derivatives, Jhat.derivative(), strict=True):
            assert np.allclose(numbers_of(before), numbers_of(now), rtol=1e-6, atol=1e-10)
        get_working_tape().clear_tape()
    assert np.allclose(*found, rtol=1e-8, atol=0)
    assert len(set(comm.allgather(str(found[0])))) == 1


def moved_mesh():
    """A functional of the area of a mesh, by its coordinates."""
    mesh = UnitSquareMesh(2, 2)
    d = Function(mesh.coordinates.function_space())
    mesh.coordinates.assign(mesh.coordinates + d)
    return (assemble(1.0 * dx(mesh)) - 0.5) ** 2, mesh.coordinates, d


def test_the_coordinates_of_a_mesh_are_refused_and_what_moves_it_is_not():
    continue_annotation()
    J, coordinates, d = moved_mesh()
    pause_annotation()
    with pytest.raises(TypeError, match=r"the coordinates of a mesh: .*Control\(d\)"):
        femnn.fit(ReducedFunctional(J, Control(coordinates)), progress=False)
    result = femnn.fit(ReducedFunctional(J, Control(d)), target=1e-12, progress=False)
    assert result.reason == "target"
    assert np.abs(d.dat.data_ro).max() > 0.01


def test_what_is_no_control_of_fit_is_named_with_the_cure():
    mesh = UnitIntervalMesh(3)
    V, Q = VectorFunctionSpace(mesh, "CG", 1, dim=2), FunctionSpace(mesh, "CG", 1)
    x = AdjFloat(2.0)
    continue_annotation()
    f, v = Function(Q, name="f").assign(1.0), Function(V, name="v")
    v.assign(Constant((1.0, 2.0)))
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, seed=1), f, name="kappa")
    J = femnn.assemble((kappa * f + v[0]) ** 2 * dx) + x**2
    pause_annotation()
    for control, message in (
        (x, r"a control is a AdjFloat, wanted Weights .* For a number take a Constant"),
        (kappa, r"the coefficient kappa, .* Control\(kappa\.weights\)"),
        (v.sub(0), r"a component of a vector field, .* take the vector field itself"),
    ):
        with pytest.raises(TypeError, match=message):
            femnn.fit(ReducedFunctional(J, Control(control)), progress=False)
    with pytest.raises(ValueError, match="f is a control twice"):
        femnn.fit(ReducedFunctional(J, [Control(f), Control(f)]), progress=False)
    f.dat.data[1] = np.nan
    with pytest.raises(ValueError, match="1 of the 4 values of the control f are NaN"):
        femnn.fit(ReducedFunctional(J, [Control(kappa.weights), Control(f)]), progress=False)
    optimiser = torch.optim.SGD(kappa.net.parameters(), lr=0.1)
    Jhat = ReducedFunctional(J, [Control(kappa.weights), Control(v)])
    with pytest.raises(ValueError, match=r"SGD moves parameters of networks, .* method='Adam'"):
        femnn.fit(Jhat, optimiser, progress=False)


@pytest.mark.parallel([2, 3])
def test_constants_that_differ_between_ranks_are_refused():
    comm = MPI.COMM_WORLD
    c = Constant(1.0, name="c")
    mesh = UnitIntervalMesh(4, comm=comm)
    continue_annotation()
    J = femnn.assemble((c - 2) ** 2 * dx(mesh))
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(c))
    c.assign(comm.rank)
    with pytest.raises(RuntimeError, match="the control c differ between ranks"):
        femnn.fit(Jhat, progress=False)
    c.assign(1.0)
    assert femnn.fit(Jhat, target=1e-12, progress=False).success
    assert float(c) == pytest.approx(2.0, abs=1e-5)


def test_a_state_that_went_on_starts_from_its_own_node():
    """A Function that is a control before the time loop, in which it takes other values."""
    V = FunctionSpace(UnitIntervalMesh(8), "CG", 1)
    u = Function(V, name="u").assign(1.0)
    continue_annotation()
    control = Control(u)
    for _ in range(3):
        u.assign(0.5 * u)
    J = femnn.assemble((u - 1.0) ** 2 * dx)
    pause_annotation()
    result = femnn.fit(ReducedFunctional(J, control), maxiter=50, gtol=1e-8, progress=False)
    assert result.initial_loss == pytest.approx((1 - 1 / 8) ** 2)
    assert np.allclose(u.dat.data_ro, 8.0, atol=1e-5)
    assert np.allclose(result.controls[0].dat.data_ro, 8.0, atol=1e-5)


def test_in_a_callback_fields_and_constants_hold_the_values_of_the_step():
    Jhat, (weights, f, c, g, start) = recorded(all_controls)
    seen = []

    def callback(step, w):
        assert np.array_equal(w, weights.vector)
        seen.append(float(Jhat([weights, f, c, g, start])) - step.loss)

    result = femnn.fit(Jhat, maxiter=2, callback=callback, progress=False)
    assert np.allclose(seen, 0, atol=1e-9 * result.initial_loss)
    assert len(seen) == 3
    before = [numbers_of(v) for v in (f, c)]
    femnn.fit(Jhat, maxiter=0, progress=False)
    for known, now in zip(before, (f, c), strict=True):
        assert np.array_equal(known, numbers_of(now))
