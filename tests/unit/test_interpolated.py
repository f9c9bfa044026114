"""Modules of one or two inputs by their values at few nodes: equal to rounding, or not used."""

import pickle
from copy import deepcopy

import firedrake as fd
import numpy as np
import pytest
import torch
from firedrake.adjoint import (
    Control,
    ReducedFunctional,
    continue_annotation,
    get_working_tape,
    pause_annotation,
)
from torch import nn

import femnn
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.interpolant import interpolant
from femnn.evaluation.interpolated import InterpolatedEvaluator, evaluator_for
from femnn.evaluation.jacobian import weight_jacobian
from femnn.evaluation.pieces import Known

N = 40_000


def steep():
    net = femnn.MLP(1, 8, 2, seed=2)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(6)
    return net


def hidden_behind_zeros():
    """The value is 0 everywhere, the output layer's gradient is not smooth at all."""
    net = femnn.MLP(1, 8, 1, seed=3)
    first, last = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight.mul_(300)
        last.weight.zero_()
    return net


def kinks(n=1, width=20):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n, width), nn.ReLU(), nn.Linear(width, 1)).double()


class OfManyOrders(nn.Module):
    """As a conductivity of the head: 14 orders of magnitude."""

    def __init__(self):
        super().__init__()
        self.inner = femnn.MLP(1, 12, 1, seed=4)

    def forward(self, x):
        return torch.exp(-32 * x**2 + self.inner(x))


class Cancelling(nn.Module):
    """Rounding is much larger than the value's own."""

    def __init__(self):
        super().__init__()
        self.inner = femnn.MLP(1, 12, 1, seed=5)

    def forward(self, x):
        return (1e3 + self.inner(x)) - 1e3


def constant():
    net = femnn.MLP(1, 4, 1, seed=1)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    return net


class AlongOne(nn.Module):
    """Steeper in the first input than in the second."""

    def __init__(self):
        super().__init__()
        self.inner = femnn.MLP(2, 24, 24, 1, seed=6)

    def forward(self, x):
        return torch.tanh(2 * x[:, :1]) + self.inner(0.2 * x)


# With the most points that may pass through the network for N values with derivatives, and the
# number of inputs.
PLANE = {
    "plane": (lambda: femnn.MLP(2, 24, 24, 1, output="softplus", seed=1), 3000),
    "plane-two-outputs": (lambda: femnn.MLP(2, 24, 24, 2, seed=2), 3000),
    "plane-gradient": (lambda: femnn.Gradient(femnn.MLP(2, 24, 24, 1, seed=1)), 4000),
    "plane-along-one": (AlongOne, 8000),
    "plane-kinks": (lambda: kinks(2, 200), 1.2 * N),
}
NETWORKS = {
    "smooth": (lambda: femnn.MLP(1, 12, 12, 1, output="softplus", seed=1), 700),
    "gradient": (lambda: femnn.Gradient(femnn.MLP(1, 8, 8, 1, seed=1)), 1000),
    "constant": (constant, 400),
    "steep": (steep, N / 4),
    "kinks": (kinks, N / 4),
    "of-many-orders": (OfManyOrders, N / 4),
    "cancelling": (Cancelling, N / 4),
    "hidden-behind-zeros": (hidden_behind_zeros, 400),
} | PLANE


@pytest.fixture(params=NETWORKS)
def case(request):
    make, most = NETWORKS[request.param]
    net, n = make(), 2 if request.param in PLANE else 1
    return PointEvaluator(net, n), InterpolatedEvaluator(net, n), most, request.param


def everything(evaluator, x):
    """What an evaluator gives, in all ways."""
    random = np.random.default_rng(1)
    cotangent = random.normal(size=(len(x), evaluator.n_outputs))
    x_dot = random.normal(size=x.shape)
    w_dot = random.normal(size=len(evaluator.parameters))
    both = evaluator.variation(x, x_dot, w_dot, cotangent=cotangent)
    return {
        "value": (evaluator.value(x),),
        "value and slope": evaluator.value_and_derivative(x),
        "products": evaluator.vjp(x, cotangent),
        "product with the weights'": (evaluator.weight_vjp(x, cotangent),),
        "change": (both.values, both.slope, both.inputs, both.weights),
        "change by x": (evaluator.variation(x, x_dot, None, of_slope=False).values,),
        "change by weights": (evaluator.variation(x, None, w_dot, of_slope=False).values,),
        "Jacobian": (weight_jacobian(evaluator, x[:12_000]),),
    }


def test_equal_to_rounding(case):
    """Also where not all is smooth, and where only the weights' derivatives are not."""
    exact, curve, most, name = case
    n = exact.n_inputs
    x = np.random.default_rng(0).uniform(*((-1, 1) if n == 1 else (0, 0.5)), (N, n))
    rounding = 1e-11 if name == "cancelling" else 5e-14
    expected, found = everything(exact, x), everything(curve, x)
    for what, wanted in expected.items():
        for a, b in zip(wanted, found[what], strict=True):
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= rounding * np.abs(a).max(), what
    curve.points_asked = curve.points_passed = 0
    curve.value_and_derivative(x)
    assert curve.points_asked == N
    assert curve.points_passed <= most


def test_small_values_keep_their_digits():
    """Each value is right to its own rounding, not to that of the largest one."""
    net = OfManyOrders()
    x = np.random.default_rng(0).uniform(-1, 1, (N, 1))
    exact, curve = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1)
    value, slope = exact.value_and_derivative(x)
    assert value.max() > 1e12 * value.min()
    found, found_slope = curve.value_and_derivative(x)
    assert curve.points_passed < N / 4
    assert (np.abs(found - value) / value).max() < 2e-13
    # A slope beside the value's change over the range.
    assert (np.abs(found_slope[..., 0] - slope[..., 0]) / value).max() < 1e-11


def uneven():
    """Nearly all points lie close together, one is far away."""
    x = np.random.default_rng(0).uniform(0, 1e-3, (N, 1))
    x[7] = 5.0
    return x


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).uniform(-1, 1, (200, 1)),
        np.array([[0.3]]),
        np.empty((0, 1)),
        np.where(np.arange(N)[:, None] == 5, np.nan, 0.1 * np.arange(N)[:, None]),
    ],
    ids=["few", "one", "none", "nan"],
)
def test_points_that_want_the_network_itself(x):
    net = femnn.MLP(1, 12, 12, 1, seed=1)
    exact, curve = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1)
    for a, b in zip(exact.value_and_derivative(x), curve.value_and_derivative(x), strict=True):
        assert np.array_equal(a, b, equal_nan=True)
    cotangent = np.ones_like(x)
    assert np.array_equal(
        exact.weight_vjp(x, cotangent), curve.weight_vjp(x, cotangent), equal_nan=True
    )


@pytest.mark.parametrize("what", ["value", "value_and_derivative", "weight_vjp"])
def test_what_passes_through_the_network_is_counted(what):
    """Values at the nodes are those that have shown the pieces to be resolved: not taken twice."""
    net, x = femnn.MLP(1, 12, 12, 1, seed=1), np.random.default_rng(0).uniform(-1, 1, (N, 1))
    curve, passed = InterpolatedEvaluator(net, 1), []
    hook = net.register_forward_hook(lambda net, args, result: passed.append(len(args[0])))
    given = (x, np.ones_like(x)) if what == "weight_vjp" else (x,)
    getattr(curve, what)(*given)
    hook.remove()
    # For the weights each node passes with its values and with their change, and in the product.
    times = 3 if what == "weight_vjp" else 1
    assert sum(passed) == curve.points_passed < times * 300


def fixed(net):
    """The network's weights, which nobody can write to."""
    weights = femnn.Weights.of(net).vector.copy()
    weights.flags.writeable = False
    return weights


def test_equal_points():
    """As where Newton's method starts: on a piece around them."""
    net = femnn.MLP(1, 12, 12, 1, seed=1)
    for x in (np.zeros((N, 1)), np.full((N, 1), 0.3), np.full((N, 1), -273.15)):
        exact, curve = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1)
        for a, b in zip(exact.value_and_derivative(x), curve.value_and_derivative(x), strict=True):
            assert np.abs(a - b).max() <= 5e-14 * np.abs(a).max()
        assert curve.points_passed < 100


@pytest.mark.parametrize("n", [1, 2])
def test_what_is_known_at_nodes_is_not_asked_for_again(n):
    """In a range about as long, with the same weights; with others all, or with any to write to."""
    net, random = femnn.MLP(n, 20, 20, 1, output="softplus", seed=1), np.random.default_rng(0)
    x = random.uniform(*((-1, 1) if n == 1 else (0, 0.5)), (N, n))
    moved = 0.01 + 0.95 * x
    exact, curve, weights = PointEvaluator(net, n), InterpolatedEvaluator(net, n), fixed(net)
    with curve.unchanged():
        curve.value_and_derivative(x, weights)
        first, curve.points_passed = curve.points_passed, 0
        found = curve.value_and_derivative(moved, weights)
    assert first > 0 == curve.points_passed
    for a, b in zip(exact.value_and_derivative(moved), found, strict=True):
        assert np.abs(a - b).max() <= 1e-14 * np.abs(a).max()
    for writable in (weights.copy(), None):
        curve.points_passed = 0
        curve.value_and_derivative(x, writable)
        assert curve.points_passed == first
    others = 0.9 * weights
    others.flags.writeable = False
    for a, b in zip(
        exact.value_and_derivative(x, others), curve.value_and_derivative(x, others), strict=True
    ):
        assert np.abs(a - b).max() <= 1e-14 * np.abs(a).max()


class Scaled(nn.Module):
    """A buffer and numbers that are not among the weights."""

    def __init__(self):
        super().__init__()
        self.inner = femnn.MLP(1, 12, 12, 1, seed=1)
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))
        self.factor, self.bump = 1.0, 0.0

    def forward(self, x):
        bump = self.bump * torch.exp(-(((x - 0.31) / 0.02) ** 2))
        return self.factor * self.inner(x) + self.offset + bump


CHANGES = {
    "offset": lambda net: net.offset.fill_(2.0),
    "factor": lambda net: setattr(net, "factor", 3.0),
    "bump": lambda net: setattr(net, "bump", 1.0),
}
SWEEPS = {
    "none": lambda curve, x, weights: None,
    "at few points": lambda curve, x, weights: curve.value(x[:9], weights),
    "with its own weights": lambda curve, x, weights: curve.value(x),
    "product": lambda curve, x, weights: curve.weight_vjp(x, np.ones_like(x), weights),
}


@pytest.mark.parametrize("between", SWEEPS.values(), ids=SWEEPS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_module_that_has_changed_is_asked_again(change, between):
    """At the same weights, whatever is asked first; also where it has changed in a small part."""
    net, x = Scaled(), np.random.default_rng(0).uniform(-1, 1, (N, 1))
    exact, curve, weights = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1), fixed(net)
    curve.value(x, weights)
    with curve.unchanged():
        curve.value_and_derivative(x, weights)
    change(net)
    between(curve, x, weights)
    expected = *exact.value_and_derivative(x, weights), exact.value(x, weights)
    found = *curve.value_and_derivative(x, weights), curve.value(x, weights)
    for a, b in zip(expected, found, strict=True):
        assert np.abs(a - b).max() <= 1e-11 * np.abs(a).max()


def test_a_kept_solver_sees_that_a_network_has_changed():
    """Also in a part of the range in which its version does not look."""
    mesh = fd.UnitSquareMesh(16, 16)
    V = fd.FunctionSpace(mesh, "P", 1)
    u, v, net = fd.Function(V), fd.TestFunction(V), Scaled()
    net.offset.fill_(1.0)
    kappa = femnn.NeuralCoefficient(net, u, degree=6)
    F = (kappa * fd.inner(fd.grad(u), fd.grad(v)) - 10 * v) * fd.dx
    problem = femnn.NeuralVariationalProblem(F, u, fd.DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    solver.solve()
    assert kappa.evaluator.points_passed < kappa.evaluator.points_asked / 2
    net.bump = 1.0
    u.assign(0.0)
    solver.solve()
    found = u.dat.data_ro.copy()
    u.assign(0.0)
    femnn.NeuralVariationalSolver(problem).solve()
    np.testing.assert_allclose(found, u.dat.data_ro, 0, 1e-9)


def test_what_is_known_survives_copies():
    net, x = femnn.MLP(1, 12, 12, 1, seed=1), np.random.default_rng(0).uniform(-1, 1, (N, 1))
    curve, weights = InterpolatedEvaluator(net, 1), fixed(net)
    expected = curve.value(x, weights)
    for copied in (pickle.loads(pickle.dumps(curve)), deepcopy(curve)):
        assert np.array_equal(copied.value(x, weights), expected)


class Step(nn.Module):
    """A smooth law that is zero below a number."""

    def __init__(self, n, at):
        super().__init__()
        self.inner, self.at = femnn.MLP(n, 20, 20, 1, output="softplus", seed=1), at

    def forward(self, x):
        return torch.where(x[:, :1] > self.at, self.inner(x), 0.0)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("at", [0.0, 0.5, 0.25])
def test_steps_at_numbers_that_people_use(n, at):
    """With many points that lie just there."""
    x = np.random.default_rng(0).uniform(-1, 1, (N, n))
    x[::3, 0] = at
    net = Step(n, at)
    exact, found = PointEvaluator(net, n), InterpolatedEvaluator(net, n)
    for a, b in zip(exact.value_and_derivative(x), found.value_and_derivative(x), strict=True):
        assert np.abs(a - b).max() <= 1e-13


class Table(nn.Module):
    """It refuses what is outside of its range."""

    def __init__(self, n):
        super().__init__()
        self.inner, self.within = femnn.MLP(n, 20, 20, 1, seed=1), 1

    def forward(self, x):
        if (x.abs() > self.within).any():
            raise ValueError("outside of the table")
        return self.inner(x)


@pytest.mark.parametrize("n", [1, 2])
def test_modules_that_do_not_take_what_is_beyond_the_points(n):
    net, x = Table(n), np.random.default_rng(0).uniform(-1, 1, (N, n))
    exact, found, weights = PointEvaluator(net, n), InterpolatedEvaluator(net, n), fixed(net)
    for _ in range(2):
        assert np.array_equal(found.value(x, weights), exact.value(x, weights))
    with pytest.raises(ValueError, match="outside of the table"):
        found.value(2 * x, weights)


def test_a_module_that_refuses_nodes_later_is_evaluated_at_the_points():
    """Nodes beyond the points were taken at first, so they are remembered."""
    net, x = Table(1), np.random.default_rng(0).uniform(-1, 1, (N, 1))
    net.within = 2
    exact, found, weights = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1), fixed(net)
    found.value(x, weights)
    assert found.points_passed < N / 4
    net.within = 1
    assert np.array_equal(found.value(x, weights), exact.value(x, weights))


@pytest.mark.parametrize("size", [1e-320, 1e-312, 1.7e308])
def test_numbers_of_extreme_sizes(size):
    net, x = femnn.MLP(2, 20, 20, 1, seed=1), np.random.default_rng(0).uniform(0, size, (N, 2))
    exact, found = PointEvaluator(net, 2), InterpolatedEvaluator(net, 2)
    for points in (x, np.full_like(x, size)):
        for a, b in zip(
            exact.value_and_derivative(points), found.value_and_derivative(points), strict=True
        ):
            np.testing.assert_allclose(b, a, 1e-13, 1e-300)


def test_uneven_points():
    net, x = femnn.MLP(1, 12, 12, 1, seed=1), uneven()
    exact, curve = PointEvaluator(net, 1), InterpolatedEvaluator(net, 1)
    for a, b in zip(exact.value_and_derivative(x), curve.value_and_derivative(x), strict=True):
        assert np.abs(a - b).max() <= 1e-14 * np.abs(a).max()
    assert curve.points_passed < N / 8


def test_single_precision_is_left_alone():
    net, x = femnn.MLP(1, 12, 12, 1, seed=1).float(), np.linspace(0, 1, N)[:, None]
    assert np.array_equal(PointEvaluator(net, 1).value(x), InterpolatedEvaluator(net, 1).value(x))


def kink(x, span):
    """Smooth on both sides of a line."""
    return np.abs(x[:, :1] - 0.2)[..., None] + np.sin(x).sum(axis=1)[:, None, None]


@pytest.mark.parametrize("n", [1, 2])
def test_the_transposed_map_is_the_transposed(n):
    x = np.random.default_rng(0).uniform(*((-1, 3) if n == 1 else (0, 0.7)), (5000 * n**4, n))
    curve = interpolant(x, [Known(kink)], len(x) // 2)
    assert 0 < curve.n_direct < len(x) / 4
    at_nodes, at_points = np.random.default_rng(1).normal(size=(2, len(x), 2))
    at_nodes = at_nodes[: len(curve.nodes)]
    left = np.vdot(curve.spread(at_nodes), at_points)
    assert left == pytest.approx(np.vdot(at_nodes, curve.gather(at_points)), rel=1e-12)
    found = curve.spread(kink(curve.nodes, None)[..., 0])
    np.testing.assert_allclose(found, kink(x, None)[..., 0], 0, 1e-14)


def test_laws_of_many_inputs_are_evaluated_directly():
    assert type(evaluator_for(femnn.MLP(3, 4, 1), 3)) is PointEvaluator
    assert type(evaluator_for(femnn.MLP(2, 4, 1), 2)) is InterpolatedEvaluator
    assert type(evaluator_for(femnn.MLP(1, 4, 1), 1)) is InterpolatedEvaluator


def heat(exact, sizes):
    """The misfit of an equation with a law of the unknown, its gradient and a Hessian's action."""
    mesh = fd.UnitSquareMesh(48, 48)
    V = fd.FunctionSpace(mesh, "P", 1)
    u, v = fd.Function(V), fd.TestFunction(V)
    operands = (u, fd.SpatialCoordinate(mesh)[0] / 8)[: sizes[0]]
    net = femnn.MLP(*sizes, output="softplus", seed=3)
    kappa = femnn.NeuralCoefficient(net, *operands, degree=6)
    if exact:
        kappa.evaluator.interpolant = lambda *_: None
    F = (kappa * fd.inner(fd.grad(u), fd.grad(v)) - 10 * v) * fd.dx
    get_working_tape().clear_tape()
    continue_annotation()
    femnn.solve(F == 0, u, fd.DirichletBC(V, 0, "on_boundary"))
    J = femnn.assemble((u - 0.1) ** 2 * fd.dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    direction = kappa.weights + np.random.default_rng(0).normal(size=len(kappa.weights.vector))
    gradient = Jhat.derivative()
    return float(J), np.asarray(gradient), np.asarray(Jhat.hessian(direction)), kappa.evaluator


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("sizes", [(1, 12, 12, 1), (2, 20, 20, 1)], ids=["of u", "of u and x"])
def test_a_solve_with_it(sizes):
    """Functional, gradient and Hessian's action as with the network at every point."""
    J, gradient, action, evaluator = heat(False, sizes)
    expected, expected_gradient, expected_action, _ = heat(True, sizes)
    assert evaluator.points_passed < evaluator.points_asked / 2
    assert pytest.approx(expected, rel=1e-14) == J
    assert np.linalg.norm(gradient - expected_gradient) < 1e-12 * np.linalg.norm(gradient)
    assert np.linalg.norm(action - expected_action) < 1e-11 * np.linalg.norm(action)
