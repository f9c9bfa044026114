"""Weights as a pyadjoint control: identity, assignment, arithmetic, the tape."""

import copy
import gc

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from femnn.tape import weights as weights_module
from femnn.tape.weights import Weights

MESHES = {}


def space(n=4, comm=MPI.COMM_SELF):
    if n not in MESHES:
        MESHES[n] = FunctionSpace(UnitSquareMesh(n, n, comm=comm), "CG", 1)
    return MESHES[n]


def record(net, nonlinear=False, clear=True):
    """Poisson with kappa(x) or kappa(u); the functional and the coefficient."""
    if clear:
        get_working_tape().clear_tape()
    V = space()
    u, v = Function(V), TestFunction(V)
    x, y = SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(net, u) if nonlinear else femnn.NeuralCoefficient(net, x, y)
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    tight = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=tight)
    J = assemble((u - x) ** 2 * dx)
    pause_annotation()
    return J, kappa


def net_of(nonlinear=False, seed=1):
    return femnn.MLP(1 if nonlinear else 2, 6, 1, output="softplus", seed=seed)


class Encoder(torch.nn.Module):
    """A value for each degree of freedom from another."""

    def __init__(self):
        super().__init__()
        self.law = net_of(nonlinear=True, seed=3)

    def forward(self, values):
        return self.law(values[:, None])[:, 0]


def difference_quotient(J_of, w, direction, h=1e-5):
    return (J_of(w + h * direction) - J_of(w - h * direction)) / (2 * h)


def direct(nonlinear):
    """J as a function of the weights, by new models that know no tape."""
    net = net_of(nonlinear)

    def J_of(w):
        Weights.of(net).assign(w)
        with stop_annotating():
            V = space()
            u, v = Function(V), TestFunction(V)
            x, y = SpatialCoordinate(V.mesh())
            operands = (u,) if nonlinear else (x, y)
            kappa = femnn.NeuralCoefficient(net, *operands)
            F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
            tight = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
            femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=tight)
            return assemble((u - x) ** 2 * dx)

    return J_of


# Identity


def test_modules_that_share_all_parameters_share_the_weights():
    net = net_of()
    x, y = SpatialCoordinate(space().mesh())
    kappa = femnn.NeuralCoefficient(net, x, y)
    assert Weights.of(net) is kappa.weights
    assert Weights.of(torch.nn.Sequential(net)) is kappa.weights
    assert femnn.NeuralCoefficient(net, y, x).weights is kappa.weights
    assert kappa.slope.weights is kappa.weights
    assert Weights.of(net_of()) is not kappa.weights
    assert len(kappa.weights) == 2 * 6 + 6 + 6 + 1
    assert repr(kappa.weights) == "Weights(MLP, 25 values)"


def test_weights_do_not_outlive_their_network():
    net = net_of()
    weights = Weights.of(net)
    key = weights._parameters.key
    assert weights_module._known[key] is weights
    del net, weights
    gc.collect()
    assert key not in weights_module._known


def test_a_deep_copy_of_a_network_has_its_own_weights():
    net = net_of()
    weights = Weights.of(net)
    other = copy.deepcopy(net)
    assert Weights.of(other) is not weights
    Weights.of(other).assign(np.zeros(25))
    assert weights.vector.any()
    assert not Weights.of(other).vector.any()


# Values


def test_vector_is_the_parameters_in_torchs_order_and_read_only():
    net = net_of()
    expected = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    vector = Weights.of(net).vector
    assert np.array_equal(vector, expected)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 1.0
    detached = Weights.of(net).like(expected)
    with pytest.raises(ValueError, match="read-only"):
        detached.vector[0] = 1.0


def test_assign_sets_the_parameters():
    net = net_of()
    weights, new = Weights.of(net), np.random.default_rng(0).standard_normal(25)
    assert weights.assign(new) is weights
    assert np.array_equal(weights.vector, new)
    assert np.array_equal(torch.nn.utils.parameters_to_vector(net.parameters()).detach(), new)
    other = Weights.of(net_of(seed=2))
    weights.assign(other)
    assert np.array_equal(weights.vector, other.vector)
    new[:] = 0
    assert weights.vector.any(), "the vector is shared with the caller"


def test_like_belongs_to_no_network():
    net = net_of()
    weights = Weights.of(net)
    before, given = weights.vector, np.ones(25)
    value = weights.like(given)
    given[:] = 7
    assert (value.vector == 1).all()
    value.assign(np.full(25, 3.0))
    assert (value.vector == 3).all()
    assert np.array_equal(weights.vector, before)
    assert len(value) == 25


@pytest.mark.parametrize("method", ["assign", "like"])
@pytest.mark.parametrize("shape", [(24,), (25, 1), ()])
def test_the_wrong_shape_is_refused(method, shape):
    weights = Weights.of(net_of())
    before = weights.vector
    with pytest.raises(ValueError, match=r"weight vector of shape \(.*\), wanted \(25,\)"):
        getattr(weights, method)(np.zeros(shape))
    assert np.array_equal(weights.vector, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    net = net_of()
    weights = Weights.of(net)
    before = weights.vector
    new = np.zeros(25)
    new[[3, 4]] = bad
    with pytest.raises(ValueError, match="2 of the 25 weights of MLP are NaN or infinite: wanted"):
        weights.assign(new)
    assert np.array_equal(weights.vector, before)
    with torch.no_grad():
        next(net.parameters())[0, 0] = bad
    with pytest.raises(ValueError, match="1 of the 25 weights of MLP are NaN or infinite"):
        record(net)
    with pytest.raises(ValueError, match="1 of the 25 weights of MLP are NaN or infinite"):
        record(net, clear=False)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_solving_with_weights_that_are_not_finite_is_refused(nonlinear):
    net = net_of(nonlinear)
    with torch.no_grad():
        next(net.parameters())[0, 0] = np.nan
    with pytest.raises(ValueError, match="weights of MLP are NaN or infinite"):
        record(net, nonlinear)


# What pyadjoint asks


def test_arithmetic():
    rng = np.random.default_rng(0)
    net = net_of()
    weights, a, b = Weights.of(net), rng.standard_normal(25), rng.standard_normal(25)
    before = weights.vector
    one, two = weights.like(a), weights.like(b)
    assert np.array_equal(one._ad_add(two).vector, a + b)
    assert np.array_equal(one._ad_mul(2.5).vector, 2.5 * a)
    assert one._ad_dot(two) == pytest.approx(np.dot(a, b), rel=1e-15)
    assert weights._ad_dim() == 25
    assert np.array_equal(one._ad_copy().vector, a)
    assert one._ad_copy() is not one
    assert np.array_equal(weights._ad_copy().vector, before)
    assert not weights._ad_init_zero().vector.any()
    assert np.array_equal(weights._ad_convert_riesz(two).vector, b)
    flat = np.concatenate([a, b])
    second, end = Weights._ad_assign_numpy(one, flat, 25)
    assert end == 50
    assert np.array_equal(second.vector, b)
    assert np.array_equal(one.vector, a), "a destination that may be shared was changed"
    assert Weights._ad_to_list(two) == b.tolist()
    one += two
    assert np.array_equal(one.vector, a + b)
    one *= 0.5
    assert np.array_equal(one.vector, 0.5 * (a + b))
    same = one  # pyadjoint's own in-place operations, which change the object
    same._ad_iadd(two)
    same._ad_imul(2.0)
    assert np.array_equal(one.vector, 2 * (0.5 * (a + b) + b))
    assert np.array_equal(weights.vector, before)


def test_operators_give_new_values_that_belong_to_no_network():
    rng = np.random.default_rng(0)
    net = net_of()
    weights, b = Weights.of(net), rng.uniform(0.5, 1.5, 25)
    a, other = weights.vector, weights.like(b)
    for found, expected in [
        (weights + other, a + b),
        (weights - other, a - b),
        (other - weights, b - a),
        (weights * other, a * b),
        (weights / other, a / b),
        (2 * weights, 2 * a),
        (weights * np.float64(0.5), 0.5 * a),
        (np.float64(0.5) * weights, 0.5 * a),
        (weights / 3, a / 3),
        (1 / other, 1 / b),
        (1 - weights, 1 - a),
        (-weights, -a),
        (weights + b, a + b),
        (b - weights, b - a),
    ]:
        assert isinstance(found, Weights)
        assert np.array_equal(found.vector, expected)
        assert found.parameters == []
    assert np.array_equal(weights.vector, a)
    assert np.array_equal(other.vector, b)


def test_in_place_operators_leave_the_network_as_it_is():
    net = net_of()
    weights = value = Weights.of(net)
    before = weights.vector
    value += weights.like(np.ones(25))
    value *= 2.0
    value -= 1.0
    value /= 4.0
    assert value is not weights
    assert np.allclose(value.vector, (2 * (before + 1) - 1) / 4, rtol=1e-15)
    now = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    assert np.array_equal(now, before)


@pytest.mark.parametrize("operand", [np.ones(24), np.ones((25, 1)), "short"])
def test_operands_of_another_shape_are_refused(operand):
    weights = Weights.of(net_of())
    if isinstance(operand, str):
        operand = Weights(vector=np.ones(3))
    message = r"an operand of shape \(.*\): wanted a number, or shape \(25,\)"
    with pytest.raises(ValueError, match=message):
        weights + operand
    with pytest.raises(TypeError, match="unsupported operand"):
        weights * None


def test_numpy_takes_weights_for_their_vector():
    net = net_of()
    weights = Weights.of(net)
    vector = weights.vector
    for value in (weights, weights.like(vector)):
        assert np.array_equal(np.asarray(value), vector)
        assert np.linalg.norm(value) == np.linalg.norm(vector)
        assert np.array_equal(np.sqrt(value * value), abs(vector))
        assert np.asarray(value, dtype=np.float32).dtype == np.float32
        assert np.asarray(value).dtype == np.float64
        assert list(value) == vector.tolist()
        assert len(value) == 25
        copied = np.array(value)
        copied[:] = 0.0  # its own memory
        assert np.array_equal(value.vector, vector)
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(value)[0] = 1.0
        with pytest.raises(ValueError, match="no vector without a copy"):
            np.array(value, dtype=np.float32, copy=False)
    with pytest.raises(ValueError, match="no vector without a copy"):
        np.array(weights, copy=False)
    assert np.shares_memory(np.array(value, copy=False), value.vector)


def test_the_gradient_is_an_array_for_numpy():
    J, kappa = record(net_of())
    gradient = ReducedFunctional(J, Control(kappa.weights)).derivative()
    assert np.linalg.norm(gradient) == np.linalg.norm(gradient.vector) > 0
    before = kappa.weights.vector
    kappa.weights.assign(kappa.weights - 0.1 * gradient)
    assert np.allclose(kappa.weights.vector, before - 0.1 * gradient.vector, rtol=1e-15)


def test_arithmetic_of_a_networks_weights_is_recorded():
    """Value, gradient and Hessian of a penalty that is made of sums and products."""
    net = net_of()
    weights = Weights.of(net)
    rng = np.random.default_rng(3)
    weights.assign(rng.uniform(1, 2, 25))
    start, scale = weights.like(rng.standard_normal(25)), rng.uniform(0.5, 1, 25)

    def penalty(w):
        apart = (w - start) / 2.0 + 0.3 * w * w
        return (apart + scale / (3.0 - w) - (w / (w + 5.0))).squared_norm() + w.squared_norm()

    continue_annotation()
    J = penalty(weights)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(weights))
    at = weights.like(rng.uniform(1, 2, 25))
    direction = weights.like(rng.standard_normal(25))
    assert Jhat(at) == pytest.approx(penalty(at), rel=1e-14)
    slope, h = Jhat.derivative()._ad_dot(direction), 1e-5
    expected = (penalty(at + h * direction) - penalty(at - h * direction)) / (2 * h)
    assert slope == pytest.approx(expected, rel=1e-8)
    assert Jhat.tlm(direction) == pytest.approx(slope, rel=1e-12)
    rates = taylor_to_dict(Jhat, at, direction)
    assert min(rates["R1"]["Rate"]) > 1.95
    assert min(rates["R2"]["Rate"]) > 2.95


def test_arithmetic_of_values_that_are_not_on_the_tape_is_not_recorded():
    weights = Weights.of(net_of())
    value = weights.like(np.ones(25))
    continue_annotation()
    value + 2.0 * value
    assert get_working_tape().get_blocks() == []
    weights + value
    assert len(get_working_tape().get_blocks()) == 1


@pytest.mark.parametrize("nonlinear", [False, True])
def test_an_assignment_that_is_not_recorded_leaves_the_tape_as_it_is(nonlinear):
    J, kappa = record(net_of(nonlinear), nonlinear)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    gradient, start = Jhat.derivative().vector, kappa.weights.vector
    kappa.weights.assign(start + 0.3)
    assert np.array_equal(Jhat.derivative().vector, gradient)
    assert Jhat(kappa.weights) != pytest.approx(J, rel=1e-3)
    assert np.linalg.norm(Jhat.derivative().vector - gradient) > 1e-3 * np.linalg.norm(gradient)


def test_a_point_that_is_changed_later_leaves_the_tape_as_it_is():
    J, kappa = record(net_of())
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    point = kappa.weights.like(kappa.weights.vector + 0.2)
    Jhat(point)
    gradient = Jhat.derivative().vector
    point.assign(np.zeros(25))
    Jhat.controls[0].tape_value().assign(np.zeros(25))
    assert np.array_equal(Jhat.derivative().vector, gradient)


def test_a_control_made_between_assignment_and_recording():
    net = net_of()
    record(net)
    weights = Weights.of(net)
    continue_annotation()
    weights.assign(weights.vector + 0.1)
    control = Control(weights)
    pause_annotation()
    J, _ = record(net, clear=False)
    assert ReducedFunctional(J, control).derivative().vector.any()


def test_parameters_have_their_names_in_the_network():
    net = torch.nn.Sequential(net_of(), torch.nn.Linear(1, 1, dtype=torch.float64))
    net[1].bias.requires_grad_(False)
    weights = Weights.of(net)
    expected = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    assert [n for n, _ in weights.named_parameters()] == [n for n, _ in expected]
    assert all(p is q for (_, p), (_, q) in zip(weights.named_parameters(), expected, strict=True))
    assert weights.like(weights.vector).named_parameters() == []


def test_what_is_not_a_module_has_no_weights():
    with pytest.raises(TypeError, match=r"got a function, wanted a torch\.nn\.Module"):
        Weights.of(lambda x: x)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_evaluating_elsewhere_leaves_the_network_as_it_is(nonlinear):
    net = net_of(nonlinear)
    J, kappa = record(net, nonlinear)
    before = kappa.weights.vector
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    away = kappa.weights.like(before + 0.3)
    assert Jhat(away) != pytest.approx(J)
    Jhat.derivative()
    assert np.array_equal(kappa.weights.vector, before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert Jhat(kappa.weights) == pytest.approx(J, rel=1e-10)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_gradient_equals_difference_quotients_of_models_without_a_tape(nonlinear):
    J, kappa = record(net_of(nonlinear), nonlinear)
    J_of, rng = direct(nonlinear), np.random.default_rng(1)
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    for shift in (0.0, 0.4):
        w = kappa.weights.vector + shift
        assert Jhat(kappa.weights.like(w)) == pytest.approx(J_of(w), rel=1e-10)
        gradient, direction = Jhat.derivative().vector, rng.standard_normal(len(w))
        expected = difference_quotient(J_of, w, direction)
        assert gradient @ direction == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_a_control_may_be_made_at_any_time(nonlinear):
    J, kappa = record(net_of(nonlinear), nonlinear)
    first = ReducedFunctional(J, Control(kappa.weights))
    here, away = kappa.weights.like(kappa.weights.vector), kappa.weights.vector + 0.3
    at_first = first.derivative().vector
    value_away = first(kappa.weights.like(away))
    gradient_away = first.derivative().vector
    second = ReducedFunctional(J, Control(kappa.weights))
    assert second(here) == pytest.approx(J, rel=1e-10)
    assert np.allclose(second.derivative().vector, at_first, rtol=1e-8, atol=1e-12)
    assert second(kappa.weights.like(away)) == pytest.approx(value_away, rel=1e-10)
    assert np.allclose(second.derivative().vector, gradient_away, rtol=1e-8, atol=1e-12)
    assert first(here) == pytest.approx(J, rel=1e-10)
    assert np.allclose(first.derivative().vector, at_first, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("clear", [True, False], ids=["cleared", "same tape"])
@pytest.mark.parametrize("how", ["optimiser", "assign"])
def test_a_recording_with_new_weights_is_a_new_leaf(nonlinear, clear, how):
    net = net_of(nonlinear)
    J, kappa = record(net, nonlinear)
    weights = kappa.weights
    old = ReducedFunctional(J, Control(weights))
    old_gradient, old_vector = old.derivative().vector, weights.vector
    if how == "optimiser":
        optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimiser.step()
        net.zero_grad()
    else:
        weights.assign(old_vector - 0.5)
    assert np.allclose(weights.vector, old_vector - 0.5, rtol=0, atol=1e-15)
    J2, again = record(net, nonlinear, clear=clear)
    assert again.weights is weights
    new = ReducedFunctional(J2, Control(weights))
    gradient, now = new.derivative().vector, weights.vector
    J_of, direction = direct(nonlinear), np.random.default_rng(2).standard_normal(len(now))
    assert J_of(now) == pytest.approx(J2, rel=1e-10)
    expected = difference_quotient(J_of, now, direction)
    assert gradient @ direction == pytest.approx(expected, rel=1e-6)
    assert new(weights.like(old_vector)) == pytest.approx(J, rel=1e-9)
    assert np.allclose(new.derivative().vector, old_gradient, rtol=1e-6, atol=1e-10)
    if not clear:  # the first recording is still that of the first weights
        assert old(weights.like(now)) == pytest.approx(J2, rel=1e-9)
        assert np.allclose(old.derivative().vector, gradient, rtol=1e-6, atol=1e-10)


def test_assignment_under_annotation_starts_a_new_leaf():
    net = net_of()
    J, kappa = record(net)
    node = kappa.weights.block_variable
    continue_annotation()
    kappa.weights.assign(kappa.weights.vector + 0.1)
    pause_annotation()
    assert kappa.weights.block_variable is not node
    J2, _ = record(net, clear=False)
    gradient = ReducedFunctional(J2, Control(kappa.weights)).derivative().vector
    get_working_tape().clear_tape()
    J3, _ = record(net)
    assert pytest.approx(J2, rel=1e-12) == J3
    expected = ReducedFunctional(J3, Control(kappa.weights)).derivative().vector
    assert np.allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert pytest.approx(J) != J2


@pytest.mark.parametrize("nonlinear", [False, True])
def test_recording_twice_without_a_change(nonlinear):
    net = net_of(nonlinear)
    J, kappa = record(net, nonlinear)
    gradient = ReducedFunctional(J, Control(kappa.weights)).derivative().vector
    for clear in (False, True):
        J2, _ = record(net, nonlinear, clear=clear)
        again = ReducedFunctional(J2, Control(kappa.weights)).derivative().vector
        assert pytest.approx(J, rel=1e-12) == J2
        assert np.allclose(again, gradient, rtol=1e-9, atol=1e-13)


def test_the_same_coefficient_recorded_again_after_clear_tape():
    """An explicit coefficient that is kept has its evaluation recorded on the new tape, too."""
    V = space()
    x, y = SpatialCoordinate(V.mesh())
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net_of(), x, y)
    F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
    problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
    solver = femnn.NeuralVariationalSolver(problem)
    gradients = []
    for _ in range(3):
        get_working_tape().clear_tape()
        continue_annotation()
        solver.solve()
        J = femnn.assemble((u - x) ** 2 * dx + 0.1 * kappa**2 * dx)
        pause_annotation()
        gradients.append(ReducedFunctional(J, Control(kappa.weights)).derivative().vector)
    assert np.linalg.norm(gradients[0]) > 1e-3
    assert np.allclose(gradients[1], gradients[0], rtol=1e-9, atol=1e-13)
    assert np.allclose(gradients[2], gradients[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_pyadjoints_minimize_works(nonlinear):
    net = net_of(nonlinear)
    J, kappa = record(net, nonlinear)
    before = kappa.weights.vector
    Jhat = ReducedFunctional(J, Control(kappa.weights))
    best = minimize(Jhat, method="L-BFGS-B", tol=1e-3)
    assert isinstance(best, Weights)
    assert np.array_equal(kappa.weights.vector, before)
    lowest = Jhat(best)
    assert lowest < 0.99 * J
    kappa.weights.assign(best)
    again, _ = record(net, nonlinear)
    assert again == pytest.approx(lowest, rel=1e-9)


def test_several_controls_keep_their_order():
    V = space()
    u, v = Function(V), TestFunction(V)
    x, y = SpatialCoordinate(V.mesh())
    a = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus", seed=1), u)
    b = femnn.NeuralCoefficient(femnn.MLP(2, 3, 1, seed=2), x, y)
    continue_annotation()
    F = a * inner(grad(u), grad(v)) * dx - b * v * dx(degree=b.degree)
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    J = assemble((u - x) ** 2 * dx)
    pause_annotation()
    both = ReducedFunctional(J, [Control(a.weights), Control(b.weights)]).derivative()
    assert [len(g) for g in both] == [len(a.weights), len(b.weights)]
    for coefficient, gradient in zip((a, b), both, strict=True):
        alone = ReducedFunctional(J, Control(coefficient.weights)).derivative()
        assert np.allclose(alone.vector, gradient.vector, rtol=1e-12, atol=1e-15)
        assert gradient.vector.any()


@pytest.mark.parallel([2, 3])
def test_weights_that_differ_between_ranks_are_refused():
    comm = MPI.COMM_WORLD
    net = net_of(seed=comm.rank)
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy().copy()
    with pytest.raises(RuntimeError, match=r"25 weights of MLP differ between ranks.*same seed"):
        Weights.of(net, comm)
    x, y = SpatialCoordinate(UnitSquareMesh(2, 2, comm=comm))
    with pytest.raises(RuntimeError, match="differ between ranks"):
        femnn.NeuralCoefficient(net, x, y)
    assert np.array_equal(Weights.of(net).vector, before), "the network has other weights now"
    assert len(Weights.of(net_of(seed=7), comm)) == 25


@pytest.mark.parallel([2, 3])
def test_a_functional_at_weights_that_differ_between_ranks_is_refused():
    comm = MPI.COMM_WORLD
    mesh = UnitSquareMesh(3, 3, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V), TestFunction(V)
    kappa = femnn.NeuralCoefficient(net_of(nonlinear=True), u)
    source = femnn.NeuralCoefficient(net_of(seed=2), *SpatialCoordinate(mesh))
    encoder = Encoder()
    ones = Function(V).assign(1.0)
    continue_annotation()
    scale = femnn.apply(encoder, ones, into=V)
    F = kappa * inner(grad(u), grad(v)) * dx - scale * source * v * dx(degree=source.degree)
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"))
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    every = [kappa.weights, source.weights, Weights.of(encoder)]
    for weights in every:
        Jhat = ReducedFunctional(J, Control(weights))
        with pytest.raises(RuntimeError, match=r"weights of .* differ between ranks"):
            Jhat(weights + 0.1 * comm.rank)
        before = weights.vector
        weights.assign(weights + 0.1 * comm.rank)
        with pytest.raises(RuntimeError, match=r"weights of .* differ between ranks"):
            Jhat(weights)
        weights.assign(before)
        assert Jhat(weights) == pytest.approx(J, rel=1e-8)


@pytest.mark.parallel([2, 3])
def test_a_network_that_differs_between_ranks_is_not_saved(tmp_path):
    comm = MPI.COMM_WORLD
    path = comm.bcast(tmp_path) / "net.safetensors"
    with pytest.raises(RuntimeError, match="of the MLP differ between ranks, nothing was written"):
        femnn.save(net_of(seed=comm.rank), path)
    assert not path.exists()
    femnn.save(net_of(seed=comm.rank), tmp_path / f"own{comm.rank}.safetensors", comm=MPI.COMM_SELF)
    femnn.save(net_of(seed=3), path)
    assert np.array_equal(Weights.of(femnn.load(path)).vector, Weights.of(net_of(seed=3)).vector)


@pytest.mark.parallel([1, 2, 3])
def test_weights_go_to_petsc_vectors_and_back():
    from pyadjoint.optimization.tao_solver import PETScVecInterface

    weights = femnn.Weights.of(femnn.MLP(1, 3, 1), COMM_WORLD)
    target = weights.like(np.zeros(len(weights)))
    interface = PETScVecInterface(weights, comm=COMM_WORLD)
    x = interface.new_petsc()
    interface.to_petsc(x, weights)
    assert x.getSize() == len(weights)
    assert x.norm() == pytest.approx(np.linalg.norm(weights.vector), rel=1e-14)
    interface.from_petsc(x, target)
    assert np.array_equal(target.vector, weights.vector)
