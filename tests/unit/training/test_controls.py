"""fit over fields and Constants beside weights: kinds, inner products, bounds, TAO."""

import numpy as np
import pytest
import scipy.sparse
import torch
import ufl
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI
from pyadjoint import AdjFloat

import femnn
from femnn.training.controls import ControlVector
from femnn.training.layout import Layout
from femnn.training.metrics import Factorised, metric_of
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


@pytest.mark.parametrize("where", ["assemble", "nonlinear", "linear"])
def test_constants_that_firedrake_does_not_follow_are_named(where):
    V = FunctionSpace(UnitIntervalMesh(4), "CG", 1)
    u, v, w, c = Function(V), TestFunction(V), TrialFunction(V), Constant(2.0, name="c")
    continue_annotation()
    J = femnn.assemble((c - 1) ** 2 * dx(V.mesh()))
    if where == "linear":
        solve(w * v * dx == c * v * dx, u)
    elif where == "nonlinear":
        solve((c * u + u**3 - 1) * v * dx == 0, u)
    J += assemble((c if where == "assemble" else 1) * (u - 1) ** 2 * dx)
    pause_annotation()
    with pytest.raises(ValueError, match=r"c is a control, .* use femnn\.assemble and femnn"):
        femnn.fit(ReducedFunctional(J, Control(c)), progress=False)
    assert float(c) == 2.0


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


# Inner products


def graded(n):
    """A mesh whose smallest cell is a thousandth of its largest, or less."""
    mesh = UnitSquareMesh(n, n)
    mesh.coordinates.dat.data[:] **= 2.5
    return mesh


def conductivity(mesh, riesz_map=None, smooth=0.0, start=0.0):
    """The log-conductivity m in every point from u everywhere."""
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    v, bc = TestFunction(V), DirichletBC(V, 0, "on_boundary")
    seen, u, m = Function(V), Function(V), Function(V, name="m").assign(start)

    def residual(m, u):
        return exp(m) * inner(grad(u), grad(v)) * dx - 10 * v * dx

    solve(residual(sin(pi * x) * sin(pi * y), seen) == 0, seen, bc)
    continue_annotation()
    solve(residual(m, u) == 0, u, bc)
    J = assemble((u - seen) ** 2 * dx + 1e-2 * (m**2 + smooth * inner(grad(m), grad(m))) * dx)
    pause_annotation()
    return ReducedFunctional(J, Control(m, riesz_map=riesz_map)), m


def misfit(mesh, riesz_map=None):
    """How far a field is from another, which is no polynomial."""
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m")
    continue_annotation()
    J = assemble((m - sin(3 * x) - y**2) ** 2 * dx(degree=4))  # one rule for all derivatives
    pause_annotation()
    return ReducedFunctional(J, Control(m, riesz_map=riesz_map)), m


def iterations(Jhat, **options):
    """Iterations until the gradient's norm is a thousandth of the first."""
    first = []

    def callback(step, weights):
        first.append(step.gradient_norm)
        return step.gradient_norm < 1e-3 * first[0]

    return femnn.fit(Jhat, callback=callback, gtol=0.0, progress=False, **options).iterations


@pytest.mark.parametrize("mesh", [lambda n: UnitSquareMesh(n, n), graded], ids=["even", "graded"])
def test_the_iterations_do_not_depend_on_the_mesh(mesh):
    smooth = [iterations(conductivity(mesh(n), "H1", 1.0)[0]) for n in (4, 20)]
    rough = [iterations(conductivity(mesh(n))[0]) for n in (4, 20)]
    assert smooth[1] <= smooth[0] + 1 <= 8
    assert rough[1] <= rough[0] + 2 <= 14


def test_the_iterations_depend_on_the_mesh_where_it_is_not_in_the_inner_product():
    even = iterations(misfit(graded(4))[0])
    assert iterations(misfit(graded(24))[0]) <= even + 2 <= 12
    assert iterations(misfit(graded(24), "l2")[0]) > 3 * even


@pytest.mark.parametrize("riesz_map", ["L2", "H1"])
def test_adam_takes_the_same_steps_on_every_mesh(riesz_map):
    losses = []
    for mesh in (graded(8), UnitSquareMesh(16, 16)):
        result = femnn.fit(
            misfit(mesh, riesz_map)[0], "Adam", maxiter=10, learning_rate=0.05, progress=False
        )
        losses.append([s.loss for s in result.history])
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert np.allclose(*losses, rtol=0.03)


def first_step(Jhat, **options):
    """What fit says of the gradient at first."""
    steps = []
    femnn.fit(Jhat, maxiter=0, callback=lambda s, w: steps.append(s), progress=False, **options)
    return steps[0].gradient_norm


def inner_products(V):
    """Riesz maps, with the form of each."""
    u, v = TrialFunction(V), TestFunction(V)
    form = 2 * inner(u, v) * dx + 0.1 * inner(grad(u), grad(v)) * dx
    bc = DirichletBC(V, 0, 1)
    return {"H1": "H1", "sobolev": ufl.H1, "form": RieszMap(form), "bcs": RieszMap(form, bcs=bc)}


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("which", ["H1", "sobolev", "form", "bcs"])
def test_the_gradients_norm_is_that_of_pyadjoints_riesz_map(which):
    comm = MPI.COMM_WORLD
    mesh = UnitSquareMesh(4, 3, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    m = Function(V, name="m")
    continue_annotation()
    J = assemble((m - sin(3 * x) - y**2) ** 4 * dx(degree=6))
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(m, riesz_map=inner_products(V)[which]))
    norm = np.sqrt(Jhat.derivative(apply_riesz=True)._ad_dot(Jhat.derivative()))
    assert first_step(Jhat) == pytest.approx(norm, rel=1e-6 if which == "bcs" else 1e-10)
    femnn.fit(Jhat, maxiter=2, progress=False)
    held = DirichletBC(V, 0, 1).nodes
    assert np.abs(m.dat.data_ro).max(initial=0.1) >= 0.1
    if which == "bcs":
        assert np.allclose(m.dat.data_ro_with_halos[held], 0.0, atol=1e-14)


def test_lumped_masses_are_positive_and_have_the_mass_of_the_field():
    for element in (("CG", 2), ("RT", 2), ("Bernstein", 3)):
        V = FunctionSpace(UnitSquareMesh(3, 2), *element)
        f = Function(V)
        metric = metric_of(f, Layout(f), None)
        root = metric.coordinates(np.ones(V.dim()))
        f.dat.data[:] = 1.0
        assert (root > 0).all()
        assert root @ root == pytest.approx(assemble(inner(f, f) * dx))
        mass = assemble(inner(TrialFunction(V), TestFunction(V)) * dx).petscmat[:, :]
        spectrum = np.linalg.eigvalsh(mass / np.outer(root, root))
        assert spectrum[-1] / spectrum[0] < 60


def test_coordinates_of_a_factorised_inner_product():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((12, 12)) * (rng.random((12, 12)) < 0.2)
    K = B @ B.T + np.eye(12)
    metric = Factorised(scipy.sparse.csc_array(K), np.ones(12))
    x, g = rng.standard_normal((2, 12))
    y = metric.coordinates(x)
    assert y @ y == pytest.approx(x @ K @ x)
    assert np.allclose(metric.point(y), x)
    assert metric.gradient(g) @ y == pytest.approx(g @ x)
    assert np.allclose(metric.representer(g), np.linalg.solve(K, g))
    with pytest.raises(ValueError, match="not positive definite"):
        Factorised(scipy.sparse.csc_array(K - 5 * np.eye(12)), np.ones(12))


def test_riesz_maps_that_are_none_are_refused():
    Jhat, _ = misfit(UnitSquareMesh(2, 2), "H2")
    with pytest.raises(ValueError, match="the riesz_map of m is 'H2': wanted 'L2', 'H1', 'l2'"):
        femnn.fit(Jhat, progress=False)
    Jhat, _ = misfit(UnitSquareMesh(2, 2), lambda g: g)
    with pytest.raises(TypeError, match=r"of m is a function, whose inner product is not known"):
        femnn.fit(Jhat, progress=False)
    q = Function(FunctionSpace(UnitSquareMesh(2, 2), "BQ", 1), name="q").assign(1.0)
    continue_annotation()
    J = assemble(q**2 * ds(degree=1))
    pause_annotation()
    with pytest.raises(ValueError, match=r"L2 inner product of q .* Control\(q, riesz_map='l2'\)"):
        femnn.fit(ReducedFunctional(J, Control(q)), progress=False)
    result = femnn.fit(ReducedFunctional(J, Control(q, riesz_map="l2")), progress=False)
    assert result.success
    assert assemble(q**2 * ds(degree=1)) < 1e-18


# Bounds


@pytest.mark.parallel([1, 2, 3])
def test_bounds_of_fields_constants_and_weights_hold_exactly():
    """Against the exact minimum, which is the projection of that without bounds."""
    comm = MPI.COMM_WORLD
    mesh = UnitSquareMesh(4, 3, comm=comm)
    V = FunctionSpace(mesh, "DG", 0)
    x, y = SpatialCoordinate(mesh)
    low, wanted = Function(V, name="low").interpolate(x), Function(V).interpolate(2 * x * y)
    f, c = Function(V, name="f").assign(1.0), Constant([0.0, 0.0, 0.0], name="c")
    weights = femnn.Weights.of(femnn.MLP(1, 2, 1, seed=1), comm=comm)
    weights.assign(np.full(len(weights), 0.3))
    continue_annotation()
    J = femnn.assemble((f - wanted) ** 2 * dx)
    J += femnn.assemble(inner(c - Constant([1.0, 2.0, -3.0]), c) * dx(mesh))
    J += (weights - 1).squared_norm()
    pause_annotation()
    Jhat = ReducedFunctional(J, [Control(c) for c in (f, c, weights)])
    bounds = [(low, 1.5), (np.array([-1.0, -1.0, 0.0]), Constant([0.1, 5.0, np.inf])), (None, 0.7)]
    result = femnn.fit(Jhat, bounds=bounds, gtol=1e-9, progress=False)
    assert result.reason == "converged"
    assert result.gradient_norm < 1e-8
    expected = np.clip(wanted.dat.data_ro, low.dat.data_ro, 1.5)
    assert np.allclose(f.dat.data_ro, expected, atol=1e-8)
    stuck = wanted.dat.data_ro < low.dat.data_ro - 1e-6
    assert comm.allreduce(stuck.sum()) > 3
    assert np.array_equal(f.dat.data_ro[stuck], low.dat.data_ro[stuck])
    assert np.allclose(c.dat.data_ro, [0.1, 1.0, 0.0], atol=1e-8)
    assert c.dat.data_ro[0] == 0.1
    assert c.dat.data_ro[2] == 0.0
    assert np.array_equal(weights.vector, np.full(len(weights), 0.7))


def test_bounds_of_one_control_as_a_pair_and_of_rank_local_arrays():
    Jhat, m = misfit(UnitSquareMesh(3, 3))
    m.assign(0.5)
    femnn.fit(Jhat, bounds=(0.2, None), progress=False)
    assert m.dat.data_ro.min() == 0.2
    m.assign(0.5)
    upper = np.where(np.arange(16) < 8, 0.5, np.inf)
    result = femnn.fit(Jhat, bounds=[(None, upper)], gtol=1e-7, progress=False)
    assert result.reason == "converged"
    assert m.dat.data_ro[:8].max() == 0.5
    assert m.dat.data_ro[8:].max() > 0.7
    Jhat(m)
    slope = Jhat.derivative().dat.data_ro
    at = m.dat.data_ro == upper
    assert (slope[at] < 0).all()
    assert np.abs(slope[~at]).max() < 1e-7


def test_bounds_that_mean_nothing_are_refused_before_anything_is_computed():
    mesh = UnitSquareMesh(2, 2)
    Jhat, _ = misfit(mesh)
    other = Function(FunctionSpace(mesh, "CG", 2), name="other")
    for bounds, error, message in (
        (3.0, TypeError, r"bounds for 1 controls: wanted a list of 1 pairs"),
        ([(0, 1), (0, 1)], TypeError, r"a bound of the field m is a tuple, wanted None, a number"),
        ([(0, 1)] * 3, TypeError, r"bounds for 1 controls"),
        ((1.0, 2.0), ValueError, r"9 of the 9 values of m are outside their bounds at first, such"),
        ((2.0, 1.0), ValueError, r"9 of its 9 values have a lower bound above the upper one"),
        ((np.nan, 1.0), ValueError, r"a bound of m is NaN"),
        ((None, other), ValueError, r"Function on another space: interpolate it, Function\(m\."),
        ((np.zeros(4), None), ValueError, r"has shape \(4,\), wanted \(9,\) or one number"),
        (("0", None), TypeError, r"a bound of the field m is a str"),
    ):
        with pytest.raises(error, match=message):
            femnn.fit(Jhat, bounds=bounds, progress=False)
    with pytest.raises(ValueError, match=r"bounds are nothing that Adam keeps to: .* 'L-BFGS'"):
        femnn.fit(Jhat, "Adam", bounds=(0, 1), progress=False)
    assert Jhat.tape.recompute_count == 0
    Jhat, _ = misfit(mesh, "H1")
    with pytest.raises(ValueError, match=r"m has bounds, and a riesz_map .*'L2', or TAO"):
        femnn.fit(Jhat, bounds=(0, None), progress=False)
    assert femnn.fit(Jhat, bounds=(None, None), maxiter=1, progress=False).iterations == 1


@pytest.mark.parallel([2, 3])
def test_bounds_that_are_wrong_on_one_rank_are_an_error_on_all():
    comm = MPI.COMM_WORLD
    Jhat, m = misfit(UnitSquareMesh(4, 4, comm=comm))
    size = m.dat.data_ro.size + (comm.rank == comm.size - 1)
    with pytest.raises((ValueError, RuntimeError), match=r"has shape|another rank got bounds"):
        femnn.fit(Jhat, bounds=(np.full(size, -1.0), None), progress=False)
    femnn.fit(Jhat, bounds=(np.full(m.dat.data_ro.size, -1.0), None), maxiter=1, progress=False)
