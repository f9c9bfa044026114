"""Networks: shapes, initial weights, bounds of the output, scaling of the input, derivatives."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from femnn import MLP, ConvexMLP, Gradient, InputScaling, MonotoneMLP, evaluate
from femnn.networks.mlp import ACTIVATIONS, Output, initialise


def points(n, n_inputs, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (n, n_inputs)))


def linear_layers(net):
    return [layer for layer in net.modules() if isinstance(layer, torch.nn.Linear)]


def randomise(net, scale, seed=0):
    """Weights that are far from any initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, scale, generator=generator)


@pytest.mark.parametrize("widths", [(1, 1), (3, 7, 1), (2, 5, 6, 4)])
def test_shapes_of_values_and_weights(widths):
    net = MLP(*widths)
    assert net(points(9, widths[0])).shape == (9, widths[-1])
    assert net(points(0, widths[0])).shape == (0, widths[-1])
    expected = sum(a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in net.parameters()) == expected
    assert all(p.dtype == torch.float64 for p in net.parameters())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_values_are_those_of_the_layers_by_hand(activation):
    net = MLP(2, 5, 3, activation=activation, seed=7)
    first, second = linear_layers(net)
    x = points(6, 2)
    by_hand = {
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "softplus": lambda z: np.log1p(np.exp(z)),
        "silu": lambda z: z / (1 + np.exp(-z)),
        "gelu": np.vectorize(lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2),
        "relu": lambda z: np.maximum(z, 0),
    }[activation]
    with torch.no_grad():
        z = x.numpy() @ first.weight.numpy().T + first.bias.numpy()
        expected = by_hand(z) @ second.weight.numpy().T + second.bias.numpy()
        assert np.allclose(net(x).numpy(), expected, rtol=1e-13, atol=1e-14)


def test_the_seed_alone_decides_the_weights():
    torch.manual_seed(1)
    one = MLP(2, 6, 1, seed=5).state_dict()
    torch.manual_seed(2)
    same, other = MLP(2, 6, 1, seed=5).state_dict(), MLP(2, 6, 1, seed=6).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one)


def test_torch_globals_are_untouched():
    torch.manual_seed(3)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    net = MLP(2, 6, 1, dtype=torch.float32, input_range=(0, 1))
    MLP(2, 6, 1, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype == torch.float32
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32}
    assert net(points(2, 2).float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("init", "low", "high", "bias"),
    [
        ("torch", -1 / math.sqrt(400), 1 / math.sqrt(400), 1 / math.sqrt(400)),
        ("xavier", -math.sqrt(6 / 700), math.sqrt(6 / 700), 0),
        ("uniform", 0, 1, 0),
    ],
)
def test_uniform_initial_weights(init, low, high, bias):
    (layer,) = linear_layers(MLP(400, 300, init=init))
    weight, biases = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    assert low <= weight.min() < low + 1e-3 * (high - low)
    assert high - 1e-3 * (high - low) < weight.max() <= high
    # 120000 numbers: the mean's standard deviation is 0.0008 of the interval
    assert abs(weight.mean() - (low + high) / 2) < 5e-3 * (high - low)
    assert weight.std() == pytest.approx((high - low) / math.sqrt(12), rel=1e-2)
    if bias == 0:
        assert (biases == 0).all()
    else:
        assert 0.9 * bias < abs(biases).max() <= bias


def test_normal_initial_weights():
    (layer,) = linear_layers(MLP(400, 300, init="normal"))
    weight = layer.weight.detach().numpy() / math.sqrt(2 / 400)
    assert abs(weight.mean()) < 0.02
    assert weight.std() == pytest.approx(1, rel=1e-2)
    assert np.mean(abs(weight) < 1) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)
    assert (layer.bias.detach().numpy() == 0).all()


def test_initialise_works_on_any_module():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    initialise(net, "uniform", seed=1)
    layers = linear_layers(net)
    assert all((layer.weight >= 0).all() and (layer.bias == 0).all() for layer in layers)


@pytest.mark.parametrize("seed", range(4))
def test_output_is_positive_or_bounded_for_any_weights(seed):
    x = 10 * points(200, 2)
    raw = MLP(2, 8, 1, output=None)
    randomise(raw, 3.0, seed)
    assert (raw(x) < 0).any(), "the test's weights do not challenge the output"
    for output in ("softplus", "exp"):
        net = MLP(2, 8, 1, output=output)
        net.load_state_dict(raw.state_dict())
        assert (net(x) > 0).all()
        free = raw(x).detach().numpy()
        expected = np.exp(free) if output == "exp" else np.logaddexp(0, free)
        assert np.allclose(net(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    bounded = MLP(2, 8, 1, output=(-0.5, 2.5))
    bounded.load_state_dict(raw.state_dict())
    y = bounded(x).detach().numpy()
    assert y.min() >= -0.5
    assert y.max() <= 2.5
    assert y.max() - y.min() > 2.0
    expected = -0.5 + 3.0 / (1 + np.exp(-raw(x).detach().numpy()))
    assert np.allclose(y, expected, rtol=0, atol=1e-12)


def test_input_scaling_maps_ranges_to_minus_one_and_one():
    scaling = InputScaling([(0, 4), (-300.0, -100.0)])
    x = torch.tensor([[0, -300], [4, -100], [2, -200], [1, -100]], dtype=torch.float64)
    expected = [[-1, -1], [1, 1], [0, 0], [-0.5, 1]]
    assert scaling(x).tolist() == expected
    assert not list(scaling.parameters())


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", [MLP, ConvexMLP, MonotoneMLP])
def test_other_numbers_of_inputs_are_not_spread_over_the_ranges(n, kind):
    net = kind(2, 4, 2, input_range=(0, 1))
    with pytest.raises(ValueError, match=f"got {n} inputs for 2 input ranges"):
        net(torch.zeros(5, n, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"got {n} arrays.*does not take the {n} inputs"):
        evaluate(net, *np.zeros((n, 5)))


def test_input_range_of_a_network_is_that_scaling_first():
    plain = MLP(2, 5, 1, seed=3)
    both = MLP(2, 5, 1, seed=3, input_range=(1, 5))
    each = MLP(2, 5, 1, seed=3, input_range=[(1, 5), (0, 10)])
    x = 3 * points(7, 2)
    half = torch.tensor([2.0, 5.0], dtype=torch.float64)
    assert torch.allclose(both(x), plain((x - 3) / 2), rtol=1e-13)
    centre = torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert torch.allclose(each(x), plain((x - centre) / half), rtol=1e-13)


@pytest.mark.parametrize(
    "net",
    [
        MLP(1, 4, 1),
        MLP(2, 4, 3, activation="gelu", output=(0.1, 2.0), input_range=(0, 3), seed=9),
        MLP(2, 4, 1, output="exp", input_range=[(0, 3), (1, 2)], init="xavier"),
        MLP(3, 2, dtype=torch.float32, init="normal", seed=4),
    ],
    ids=["plain", "bounded", "ranges", "float32"],
)
def test_config_builds_the_same_module(net):
    import json

    again = MLP.from_config(json.loads(json.dumps(net.config)))
    assert again.config == net.config
    state, expected = again.state_dict(), net.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[k], expected[k]) for k in state)
    x = points(5, net.config["widths"][0]).to(next(net.parameters()).dtype)
    assert torch.equal(again(x), net(x))


def test_gradient_equals_finite_differences():
    net = MLP(3, 8, 8, 1, output="softplus", seed=1)
    x, h = points(6, 3), 1e-6
    slope = Gradient(net)(x)
    assert slope.shape == (6, 3)
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = h
        difference = (net(x + step) - net(x - step))[:, 0] / (2 * h)
        assert torch.allclose(slope[:, i], difference, rtol=1e-7, atol=1e-9)


def test_gradient_is_differentiable_in_weights_and_inputs():
    net = MLP(2, 6, 1, seed=1)
    module, x, h = Gradient(net), points(5, 2), 1e-6
    assert [id(p) for p in module.parameters()] == [id(p) for p in net.parameters()]

    def total():
        return (module(x) ** 2).sum()

    grads = torch.autograd.grad(total(), list(net.parameters()), allow_unused=True)
    for p, grad in zip(net.parameters(), grads, strict=True):
        flat = p.data.view(-1)
        for i in range(len(flat)):
            value = flat[i].item()
            with torch.no_grad():
                flat[i] = value + h
                above = total().item()
                flat[i] = value - h
                below = total().item()
                flat[i] = value
            expected = 0.0 if grad is None else grad.reshape(-1)[i].item()
            assert (above - below) / (2 * h) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    z = x.clone().requires_grad_(True)
    (second,) = torch.autograd.grad(module(z)[:, 0].sum(), z)
    forward = torch.autograd.functional.hessian(lambda p: net(p[None])[0, 0], x[0])
    assert torch.allclose(second[0], forward[0], rtol=1e-10)


def test_gradient_without_torch_gradients_leaves_no_graph():
    with torch.no_grad():
        assert not Gradient(MLP(2, 4, 1))(points(3, 2)).requires_grad


def test_gradient_of_a_law_that_does_not_depend_on_its_input_is_zero():
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return self.c.expand(len(x), 1)

    assert torch.equal(Gradient(Constant())(points(3, 2)), torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3), r"MLP\(3,\): give the number of inputs"),
        (lambda: MLP(), "positive integers"),
        (lambda: MLP(1, 0, 1), "positive integers"),
        (lambda: MLP(1, 2.5, 1), "positive integers"),
        (lambda: MLP(1, 4, 1, activation="swish"), "activation='swish' is unknown, use one of"),
        (lambda: MLP(1, 4, 1, output="relu"), "output='relu' is unknown: use None, 'softplus'"),
        (lambda: MLP(1, 4, 1, output=(2, 1)), r"output=\(2, 1\) is unknown.*lower < upper"),
        (lambda: MLP(1, 4, 1, output=(1, 2, 3)), "a pair"),
        (lambda: MLP(1, 4, 1, init="he"), "init='he' is unknown, use 'torch', 'xavier'"),
        (lambda: MLP(2, 1, input_range=[(0, 1)]), "one .lower, upper. pair for each of the 2"),
        (lambda: MLP(2, 1, input_range=[(0, 1, 2), (0, 1)]), "for each of the 2 inputs"),
        (lambda: MLP(2, 1, input_range=(1, 1)), "each pair must be finite with lower < upper"),
        (lambda: MLP(1, 1, input_range=(0, math.inf)), "must be finite"),
        (lambda: InputScaling([(3, 1)]), "lower < upper"),
        (lambda: Output("tanh"), "output='tanh' is unknown"),
        (lambda: Gradient(MLP(2, 3))(points(2, 2)), "must have one output, it gave"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_import_of_the_package_does_not_import_firedrake():
    import subprocess

    names = "femnn.MLP, femnn.ConvexMLP, femnn.Odd"
    code = f"import sys, femnn; {names}; assert 'firedrake' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_unknown_name_in_the_package():
    import femnn

    with pytest.raises(AttributeError, match="No femnn attribute Perceptron"):
        _ = femnn.Perceptron
    assert set(femnn.__all__) <= set(dir(femnn))
    assert all(getattr(femnn, name) is not None for name in femnn.__all__)
