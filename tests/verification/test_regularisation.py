"""Penalties on laws: their derivatives, and that they do what they are for."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from pyadjoint import AdjFloat

import femnn
from tests.verification.derivatives import Recording
from tests.verification.problems import TIGHT

PENALTIES = {
    "size": lambda k: femnn.assemble(k**2 * dx),
    "gradient in space": lambda k: femnn.assemble(inner(k.grad(), k.grad()) * dx),
    "slope": lambda k: femnn.assemble(k.slope[0] ** 2 * dx),
    "monotonicity": lambda k: femnn.assemble(max_value(-k.slope[0], 0) ** 2 * dx),
    "positivity": lambda k: femnn.assemble(max_value(-k, 0) ** 2 * dx),
    "weight decay": lambda k: k.weights.squared_norm(),
}
# Seed and range of inputs for one input and two: both signs, and a curvature that is not near zero
# in the direction of the Taylor tests, where their order would show late.
LAWS = {1: (29, 0.15), 2: (4, 0.3)}
KINKED = ("monotonicity", "positivity")
CASES = [(law, name) for law in ("implicit", "explicit") for name in PENALTIES]


def two_signed(n_inputs):
    """A network whose values and slope take both signs: both sides of the kinks are met."""
    seed, width = LAWS[n_inputs]
    net = femnn.MLP(n_inputs, 8, 1, seed=seed, input_range=(-width, width))
    with torch.no_grad():
        for p in net.parameters():
            p *= 2
    return net


def model(law, name):
    """A recorded misfit with a penalty; a term in the equation keeps it well-posed."""

    def record(comm=COMM_WORLD):
        mesh = UnitSquareMesh(5, 4, comm=comm)
        V = FunctionSpace(mesh, "CG", 2)
        u, v = Function(V, name="u"), TestFunction(V)
        x, y = SpatialCoordinate(mesh)
        operands = (u,) if law == "implicit" else (x, y)
        net = two_signed(len(operands))
        kappa = femnn.NeuralCoefficient(net, *operands)
        F = (1 + kappa**2) * inner(grad(u), grad(v)) * dx - 20 * (x - y) * v * dx
        femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
        J = femnn.assemble((u - x) ** 2 * dx) + PENALTIES[name](kappa)
        record.kappa = kappa
        return J, [kappa.weights]

    record.controls, record.seed = ("weights",), 0
    return record


@pytest.mark.parametrize(("law", "name"), CASES)
def test_derivatives_of_penalties(law, name):
    for found in Recording(model(law, name)).accuracy("weights"):
        assert found.gradient > 1.95
        if name not in KINKED:
            assert found.hessian > 2.8
            assert found.tangent < 1e-10
            assert found.asymmetry < 1e-9


@pytest.mark.parametrize("law", ["implicit", "explicit"])
@pytest.mark.parametrize("name", KINKED)
def test_penalties_with_a_kink_meet_both_sides(law, name):
    """Else their Taylor tests would be those of zero or of a smooth function."""
    record = model(law, name)
    record()
    kappa = record.kappa
    with stop_annotating():
        values = kappa if name == "positivity" else kappa.slope[0]
        area = [femnn.assemble(conditional(s * values > 0, 1.0, 0.0) * dx) for s in (1, -1)]
    assert min(area) > 0.05


@pytest.mark.parametrize("law", ["implicit", "explicit"])
@pytest.mark.parametrize("name", KINKED)
def test_hessian_of_penalties_with_a_kink(law, name):
    """The action is the derivative of the gradient but for the points on the kink: order 1 of
    the gradient's difference, seen as a small relative difference at a small step."""
    continue_annotation()
    J, (weights,) = model(law, name)()
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(weights))
    rng = np.random.default_rng(0)
    direction = weights.like(rng.standard_normal(len(weights)))
    step = 1e-5
    gradients = []
    for sign in (1, -1):
        Jhat(weights.like(weights.vector + sign * step * direction.vector))
        gradients.append(Jhat.derivative().vector)
    Jhat(weights.like(weights.vector))
    Jhat.derivative()
    action = Jhat.hessian(direction).vector
    difference = (gradients[0] - gradients[1]) / (2 * step)
    assert np.linalg.norm(action - difference) < 1e-3 * np.linalg.norm(difference)


def test_values_of_penalties():
    """Against the same law written out in UFL."""
    mesh = UnitSquareMesh(3, 3)
    V = FunctionSpace(mesh, "CG", 1)
    x, y = SpatialCoordinate(mesh)
    u = Function(V).interpolate(x * y - 0.3)
    net = femnn.MLP(1, 6, 1, init="normal", seed=3)
    kappa = femnn.NeuralCoefficient(net, u)
    z = variable(u)
    (law,) = femnn.to_ufl(net, z)
    slope, d = diff(law, z), dx(degree=kappa.degree)
    wanted = {
        "size": law**2 * d,
        "gradient in space": slope**2 * inner(grad(u), grad(u)) * d,
        "slope": slope**2 * d,
        "monotonicity": max_value(-slope, 0) ** 2 * d,
        "positivity": max_value(-law, 0) ** 2 * d,
    }
    for name, form in wanted.items():
        assert PENALTIES[name](kappa) == pytest.approx(assemble(form), rel=1e-12), name
    squares = sum((p**2).sum().item() for p in net.parameters())
    assert PENALTIES["weight decay"](kappa) == pytest.approx(squares, rel=1e-14)


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_do_not_depend_on_ranks(name):
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        continue_annotation()
        mesh = UnitSquareMesh(6, 5, comm=comm)
        x, y = SpatialCoordinate(mesh)
        kappa = femnn.NeuralCoefficient(femnn.MLP(2, 6, 1, init="normal", seed=3), x, y)
        J = PENALTIES[name](kappa.update())
        pause_annotation()
        Jhat = ReducedFunctional(J, Control(kappa.weights))
        results.append((float(J), Jhat.derivative().vector))
    (value, gradient), (alone, gradient_alone) = results
    assert value == pytest.approx(alone, rel=1e-12)
    np.testing.assert_allclose(gradient, gradient_alone, rtol=1e-10, atol=1e-12)


def fitted(penalty):
    """A law u -> kappa(u) from noisy observations of kappa that are not monotone."""
    mesh = UnitIntervalMesh(40)
    V = FunctionSpace(mesh, "CG", 1)
    (x,) = SpatialCoordinate(mesh)
    u = Function(V).interpolate(x)
    rng = np.random.default_rng(0)
    data = Function(V)
    data.dat.data[:] = 0.5 + u.dat.data_ro + 0.25 * np.sin(12 * u.dat.data_ro)
    data.dat.data[:] += 0.02 * rng.standard_normal(len(data.dat.data_ro))
    continue_annotation()
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 20, 1, init="normal", seed=1), u).update()
    J = femnn.assemble((kappa - data) ** 2 * dx)
    if penalty:
        J += penalty * femnn.assemble(max_value(-kappa.slope[0], 0) ** 2 * dx)
    pause_annotation()
    femnn.fit(ReducedFunctional(J, Control(kappa.weights)), maxiter=300, progress=False)
    with torch.no_grad():
        values = kappa.net(torch.linspace(0, 1, 400, dtype=torch.float64)[:, None])[:, 0]
    return values.numpy(), data


def test_a_penalty_makes_a_law_monotone():
    """The noisy data fall by about 0.3 in places; the law follows them unless it is penalised."""
    free, data = fitted(0.0)
    monotone, _ = fitted(10.0)
    span = data.dat.data_ro.max() - data.dat.data_ro.min()
    assert (np.maximum.accumulate(free) - free).max() > 0.1 * span
    assert (np.maximum.accumulate(monotone) - monotone).max() < 0.01 * span
    assert monotone[-1] - monotone[0] > 0.5 * span, "still a law of the data, not a constant"


def test_the_documentations_lines():
    """Each line of the page runs, and adds something to the functional and to its gradient."""
    page = (Path(__file__).parents[2] / "docs" / "regularisation.md").read_text()
    lines = page.split("```python\n")[1].split("```")[0].splitlines()
    assert len(lines) == len(PENALTIES)
    for line in lines:
        get_working_tape().clear_tape()
        record = model("implicit", "size")
        continue_annotation()
        record()
        names = {**globals(), "kappa": record.kappa, "J": AdjFloat(0.0)}
        exec(line, names)
        pause_annotation()
        J = names["J"]
        assert J > 0, line
        assert ReducedFunctional(J, Control(record.kappa.weights)).derivative().vector.any(), line


def test_a_penalty_on_the_whole_range_of_an_operand():
    """The same network on a mesh of its operand's range shares the weights."""
    record = model("implicit", "size")
    continue_annotation()
    J, (weights,) = record()
    z = SpatialCoordinate(IntervalMesh(50, -1.0, 1.0))[0]
    J += femnn.assemble(max_value(-femnn.NeuralCoefficient(record.kappa.net, z), 0) ** 2 * dx)
    pause_annotation()
    with contextlib.redirect_stdout(io.StringIO()):
        direction = weights.like(np.random.default_rng(0).standard_normal(len(weights)))
        Jhat = ReducedFunctional(J, Control(weights))
        assert taylor_test(Jhat, weights.like(weights.vector), direction) > 1.95
