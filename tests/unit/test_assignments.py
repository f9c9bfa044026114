"""Recorded assignments: the same numbers as from Firedrake's own blocks."""

import numpy as np
import pytest
from firedrake import *
from firedrake.adjoint import *
from firedrake.adjoint_utils.blocks import FunctionAssignBlock
from mpi4py import MPI

import femnn
import femnn.tape.nodes
from femnn.parallel import on_rank_zero
from femnn.tape.assignments import Assignment
from femnn.tape.columns import gauss_newton_matrix
from femnn.tape.curvature import gauss_newton_product
from tests.unit.models import law, square
from tests.verification.derivatives import Recording, model, numbers_of
from tests.verification.test_derivatives import check, measured

MASS = dx(scheme="KMV", degree=1)


def waves(V, kappa, source):
    """The acceleration, its solver with a lumped mass matrix, and three levels in time."""
    a, now, before, new = (Function(V, name=n) for n in ("a", "now", "before", "new"))
    v, w = TestFunction(V), TrialFunction(V)
    L = source * v * dx - kappa(now) * inner(grad(now), grad(v)) * dx
    bc = DirichletBC(V, 0, 1)
    problem = femnn.NeuralVariationalProblem.linear(w * v * MASS, L, a, bc)
    return a, now, before, new, femnn.NeuralVariationalSolver(problem)


@model("weights", "source", "start")
def leapfrog(comm=MPI.COMM_WORLD):
    """Two levels in time, sums with a Constant that changes between steps."""
    V, _, _, x, y = square(comm)
    source, start = Function(V, name="f").interpolate(1 + x), Function(V).interpolate(x * y)
    net = law()
    a, now, before, new, solver = waves(V, lambda u: femnn.NeuralCoefficient(net, u), source)
    dt = Constant(0.05)
    now.assign(start)
    before.assign(start)
    J = 0
    for step in range(4):
        dt.assign(0.05 + 0.01 * step)
        solver.solve()
        new.assign(2 * now - before + dt**2 * a)
        before.assign(now)
        now.assign(new)
        J += femnn.assemble(new**4 * dx)
    return J, [femnn.Weights.of(net), source, start]


@model("f", "g", "r", "weights")
def sums(comm=MPI.COMM_WORLD):
    """In place, with a Function on a Real space, of itself, with a number for a summand."""
    V, u, v, x, y = square(comm)
    f, g = Function(V, name="f").interpolate(x + y), Function(V, name="g").interpolate(1 + x * y)
    r = Function(FunctionSpace(V.mesh(), "R", 0), name="r").assign(0.7)
    h = Function(V, name="h").assign(f)
    h += g
    h *= 0.5
    h -= r * f
    h.assign(h / 3 + g + g - r**2 * h)
    h.assign(2 * h + 0.3)
    h.assign(h)
    kappa = femnn.NeuralCoefficient(law(), u)
    F = kappa * inner(grad(u), grad(v)) * dx - h**2 * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, x, (1, 3)), solver_parameters={"snes_rtol": 1e-12})
    return femnn.assemble(u**2 * dx + h**3 * dx), [f, g, r, kappa.weights]


@model("f", "weights")
def mixed(comm=MPI.COMM_WORLD):
    """A space of a vector and a scalar."""
    mesh = UnitSquareMesh(3, 4, comm=comm)
    W = VectorFunctionSpace(mesh, "CG", 2) * FunctionSpace(mesh, "DG", 0)
    x, y = SpatialCoordinate(mesh)
    f = Function(FunctionSpace(mesh, "CG", 1), name="f").interpolate(1 + x * y)
    start, w, z = (Function(W, name=n) for n in ("start", "w", "z"))
    known = as_vector([f, y * f**2, x + f])
    femnn.solve(
        inner(TrialFunction(W), TestFunction(W)) * dx == inner(known, TestFunction(W)) * dx, start
    )
    net = law()
    w.assign(start)
    J = 0
    for _ in range(2):
        z.assign(2 * w - start / 4)
        w.assign(z - w / 3)
        u, p = split(w)
        J += femnn.assemble(femnn.NeuralCoefficient(net, p) * (dot(u, u) + p) * dx)
    return J, [f, femnn.Weights.of(net)]


MODELS = [leapfrog, sums, mixed]


def assignments(recording):
    return [b for b in recording.tape.get_blocks() if isinstance(b, FunctionAssignBlock)]


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_derivatives(recorded):
    recording = Recording(recorded)
    assert {type(block) for block in assignments(recording)} == {Assignment}
    for found in recording.accuracy(*recorded.controls):
        check(found)


@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_those_of_firedrakes_blocks(recorded, monkeypatch):
    """Values, gradients, tangent-linear models and Hessian actions, away from the record."""
    controls = [name for name in recorded.controls if name != "r"]
    numbers, vectors = of_controls(recorded, controls)
    monkeypatch.setattr(femnn.tape.nodes, "adopt_assignments", lambda until: None)
    assert {type(b) for b in assignments(Recording(recorded))} == {FunctionAssignBlock}
    expected, expected_vectors = of_controls(recorded, controls)
    assert numbers == pytest.approx(expected, rel=1e-10)
    for vector, wanted in zip(vectors, expected_vectors, strict=True):
        assert np.linalg.norm(vector - wanted) < 1e-10 * np.linalg.norm(wanted)


def of_controls(recorded, names):
    """Without a weight: Firedrake's blocks leave its products with fields out of Hessians."""
    Jhat, _, away = Recording(recorded).of(*names)
    return numbers_of(Jhat, away)


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_values_are_those_of_firedrakes_assign_bit_for_bit(recorded):
    """In halos too."""
    for block in assignments(Recording(recorded)):
        (node,) = block.get_outputs()
        values = []
        for kind in (Assignment, FunctionAssignBlock):
            block.__class__ = kind
            block.recompute()
            values.append(node.saved_output)
        for ours, firedrakes in zip(*(value.dat for value in values), strict=True):
            assert np.array_equal(ours.data_ro_with_halos, firedrakes.data_ro_with_halos)


@pytest.mark.parallel([2])
@pytest.mark.parametrize("recorded", MODELS, ids=lambda m: m.__name__)
def test_numbers_are_the_same_on_ranks(recorded):
    numbers, _ = measured(recorded, MPI.COMM_WORLD)
    alone, _ = on_rank_zero(MPI.COMM_WORLD, measured, recorded, MPI.COMM_SELF)
    assert numbers == pytest.approx(alone, rel=1e-9)


def test_gauss_newton_takes_all_directions_through_sums(monkeypatch):
    V, *_ = square(MPI.COMM_WORLD)
    net = law()
    one = Constant(1.0)
    a, now, before, new, solver = waves(V, lambda u: femnn.NeuralCoefficient(net, u), one)
    stations = femnn.Stations(V.mesh(), [[0.7, 0.3], [0.4, 0.6]])
    observed = femnn.Observations(stations, [0.1, 0.2], 0.1)
    continue_annotation()
    J = 0
    for _ in range(3):
        solver.solve()
        new.assign(2 * now - before + 0.01 * a)
        before.assign(now)
        now.assign(new)
        J += observed.misfit(now)
    pause_annotation()
    weights = femnn.Weights.of(net)
    Jhat = ReducedFunctional(J, Control(weights))
    with monkeypatch.context() as patched:
        patched.delattr(Assignment, "evaluate_tlm_component")  # nothing runs one by one
        patched.delattr(FunctionAssignBlock, "evaluate_tlm_component")
        matrix = gauss_newton_matrix(J, Jhat.controls, Jhat.tape)
    direction = weights.like(np.linspace(-1, 1, len(weights)))
    Jhat.derivative()
    (product,) = gauss_newton_product(J, Jhat.controls, direction, Jhat.tape)
    assert matrix @ direction.vector == pytest.approx(product.vector, rel=1e-9)
