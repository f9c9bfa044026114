"""What laws guarantee for all weights, large ones too: monotone, convex, odd, definite, ..."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import femnn
from femnn import (
    MLP,
    ConvexMLP,
    Even,
    FourierFeatures,
    Gradient,
    InputScaling,
    MonotoneMLP,
    Odd,
    PeriodicInputs,
    SPDTensor,
    SymmetricTensor,
)
from femnn.evaluation.evaluator import PointEvaluator
from femnn.networks.mlp import Output, softplus

SCALES = [None, 1.0, 10.0]  # None: the initial weights; 10: large ones


def points(n, n_inputs, seed=0, size=1.0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-size, size, (n, n_inputs)))


def randomised(net, scale, seed=0):
    """The network with weights that are far from any initial ones."""
    if scale is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in net.parameters():
                p.normal_(0, scale, generator=generator)
    return net


def slopes(net, x):
    """The derivatives of all outputs, shape (points, outputs, inputs)."""
    return torch.from_numpy(PointEvaluator(net, x.shape[1]).value_and_derivative(x.numpy())[1])


def hessians(net, x):
    """The second derivatives of each output, shape (points, outputs, inputs, inputs)."""

    jacobian = torch.func.jacrev
    return torch.stack([jacobian(jacobian(lambda q: net(q[None])[0]))(p) for p in x]).detach()


def smallest_eigenvalue(matrices):
    """The smallest of all eigenvalues, relative to each matrix' size."""
    size = matrices.abs().amax((-2, -1)).clamp_min(1e-300)
    return (torch.linalg.eigvalsh(matrices)[..., 0] / size).min().item()


def many():
    """One network of three inputs of every kind."""
    return {
        "monotone": MonotoneMLP(3, 5, 4, 2, increasing=[1], decreasing=[0], output="softplus"),
        "all monotone": MonotoneMLP(3, 5, 1, input_range=(-2, 3), activation="sigmoid", seed=3),
        "convex": ConvexMLP(3, 5, 4, 1, convex=[0, 2], increasing=[2], output="exp"),
        "all convex": ConvexMLP(3, 5, 2, input_range=[(0, 1), (-1, 1), (2, 3)]),
        "odd": Odd(MLP(3, 5, 2, input_range=(0, 1)), [0, 2]),
        "even": Even(MLP(3, 5, 1)),
        "symmetric": SymmetricTensor(MLP(3, 5, 3), 2),
        "definite": SPDTensor(MLP(3, 5, 6), 3, smallest=0.01),
        "periodic": nn.Sequential(PeriodicInputs([2.0, None, 0.5], 2), MLP(9, 4, 1)),
        "fourier": nn.Sequential(FourierFeatures(3, 4, 0.5, seed=2), MLP(8, 4, 1)),
        "nested": Even(Odd(SPDTensor(nn.Sequential(MLP(3, 4, 3), Output((0, 2))), 2), [1]), [0]),
        "scaled": nn.Sequential(InputScaling.fit(points(20, 3), "std"), MLP(3, 4, 1)),
    }


# Monotone


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("output", [None, "softplus", "exp", (-1, 2)])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_monotone_networks_never_fall(activation, output, scale):
    net = MonotoneMLP(
        4, 6, 5, 2, increasing=[2, 0], decreasing=[3], activation=activation, output=output, seed=1
    )
    randomised(net, 2 if output == "exp" and scale else scale)
    x = points(400, 4, size=2)
    slope = slopes(net, x)
    assert (slope[:, :, [0, 2]] >= 0).all()
    assert (slope[:, :, 3] <= 0).all()
    for i, sign in ((0, 1), (2, 1), (3, -1)):
        for step in (1e-3, 1.0):
            far = x.clone()
            far[:, i] += sign * step
            change = net(far) - net(x)
            assert (change >= -1e-13 * (1 + net(x).abs())).all()
    if scale is None:
        assert (slope[:, :, [0, 2]] > 0).all()
        assert slope[:, :, 1].min() < 0 < slope[:, :, 1].max()


def test_a_monotone_network_learns_a_steep_law_that_depends_on_a_free_input():
    net = MonotoneMLP(2, 12, 12, 1, increasing=[0])
    x = points(200, 2)
    law = torch.sigmoid(5 * x[:, :1] * (1.2 + torch.sin(4 * x[:, 1:]))) + torch.cos(3 * x[:, 1:])
    assert fit(net, x, law) < 0.05


# Convex


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("output", [None, "softplus", "exp"])
def test_convex_networks_lie_below_their_chords(output, scale):
    net = ConvexMLP(3, 6, 5, 2, output=output, seed=1)
    randomised(net, 0.5 if output == "exp" and scale else scale)
    a, b = points(400, 3, seed=1, size=2), points(400, 3, seed=2, size=2)
    chord = (net(a) + net(b)) / 2
    assert (net((a + b) / 2) <= chord + 1e-13 * (1 + chord.abs())).all()
    assert smallest_eigenvalue(hessians(net, a[:20])) >= -1e-12


@pytest.mark.parametrize("scale", SCALES)
def test_partly_convex_networks(scale):
    net = randomised(ConvexMLP(4, 6, 5, 1, convex=[3, 0], increasing=[3], seed=2), scale)
    a, b = points(400, 4, seed=1, size=2), points(400, 4, seed=2, size=2)
    b[:, [1, 2]] = a[:, [1, 2]]
    chord = (net(a) + net(b)) / 2
    assert (net((a + b) / 2) <= chord + 1e-13 * (1 + chord.abs())).all()
    part = hessians(net, a[:20])[..., [0, 3], :][..., [0, 3]]
    assert smallest_eigenvalue(part) >= -1e-12
    slope = slopes(net, a)[:, 0]
    assert (slope[:, 3] >= 0).all()
    if scale is None:
        assert slope[:, 0].min() < 0 < slope[:, 0].max()
        assert hessians(net, a[:20])[:, 0, 1, 1].min() < 0


def test_a_convex_network_learns_a_convex_law():
    x = points(200, 2)
    law = (x**2).sum(1, keepdim=True) + (x[:, :1] + x[:, 1:]).abs() ** 3
    assert fit(ConvexMLP(2, 12, 12, 1), x, law) < 0.05


@pytest.mark.parametrize("scale", SCALES)
def test_the_gradient_of_a_convex_potential_has_a_symmetric_positive_tangent(scale):
    flux = Gradient(randomised(ConvexMLP(3, 8, 8, 1), scale))
    tangent = slopes(flux, points(200, 3))
    size = tangent.abs().amax((1, 2), keepdim=True)
    assert ((tangent - tangent.mT).abs() <= 1e-13 * (1 + size)).all()
    assert smallest_eigenvalue((tangent + tangent.mT) / 2) >= -1e-12


def fit(net, x, y):
    """Relative error after a short training."""
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = ((net(x) - y) ** 2).mean()
        value.backward()
        return value

    optimiser.step(loss)
    return math.sqrt(loss().item() / y.var().item())


def test_softplus_has_no_jump():
    x = torch.linspace(-60, 60, 24001, dtype=torch.float64)
    y = softplus(x)
    assert torch.allclose(y, torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-15, atol=0)
    assert (y.diff() >= 0).all()
    layer = MLP(1, 1, 1, activation="softplus").layers[1]
    assert torch.equal(layer(x), y)


# Odd and even


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inputs", [None, [2, 0]])
def test_odd_and_even_are_exact(inputs, scale):
    net = randomised(MLP(3, 20, 4, input_range=(0, 1)), scale)
    x = points(37, 3)
    mirrored = x.clone()
    mirrored[:, inputs or [0, 1, 2]] *= -1
    odd, even = Odd(net, inputs), Even(net, inputs)
    assert torch.equal(odd(mirrored), -odd(x))
    assert torch.equal(even(mirrored), even(x))
    assert torch.allclose(odd(x) + even(x), net(x), rtol=1e-13, atol=1e-13)
    at_zero = x.clone()
    at_zero[:, inputs or [0, 1, 2]] = 0
    assert torch.equal(odd(at_zero), torch.zeros(37, 4, dtype=torch.float64))
    assert [id(p) for p in odd.parameters()] == [id(p) for p in net.parameters()]


def test_the_even_part_of_a_convex_network_is_convex():
    net = Even(randomised(ConvexMLP(2, 6, 1), 2.0))
    assert smallest_eigenvalue(hessians(net, points(20, 2))) >= -1e-12


# Tensors


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("scale", SCALES)
def test_symmetric_and_definite_tensors(n, scale):
    net = randomised(MLP(2, 8, n * (n + 1) // 2, seed=4), scale)
    x = points(300, 2)
    triangle = net(x)
    symmetric = SymmetricTensor(net, n)(x).reshape(-1, n, n)
    assert torch.equal(symmetric, symmetric.mT)
    rows, columns = np.tril_indices(n)
    assert torch.equal(symmetric[:, rows, columns], triangle)
    definite = SPDTensor(net, n, smallest=0.1)(x).reshape(-1, n, n)
    assert torch.equal(definite, definite.mT)
    assert torch.linalg.eigvalsh(definite).min() >= 0.1 - 1e-14 * definite.abs().max()
    factor = torch.zeros(300, n, n, dtype=torch.float64)
    factor[:, rows, columns] = triangle
    diagonal = torch.arange(n)
    factor[:, diagonal, diagonal] = softplus(factor[:, diagonal, diagonal])
    expected = factor @ factor.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    assert torch.allclose(definite, expected, rtol=1e-13, atol=1e-13)


# Features


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("harmonics", [1, 3])
def test_periodic_inputs(harmonics, scale):
    features = PeriodicInputs([365.25, None, 0.5], harmonics)
    net = nn.Sequential(features, randomised(MLP(features.n_outputs, 8, 2), scale))
    x = points(50, 3)
    for period in ([365.25, 0, 0], [0, 0, 0.5], [-365.25, 0, 1.5]):
        shifted = net(x + torch.tensor(period, dtype=torch.float64))
        assert torch.allclose(shifted, net(x), rtol=1e-11, atol=1e-11 * (scale or 1) ** 2)
    for other in ([0, 1, 0], [100, 0, 0], [0, 0, 0.2]):
        assert not torch.allclose(net(x + torch.tensor(other)), net(x), rtol=1e-2, atol=1e-2)


def test_features_by_hand():
    x = points(5, 2)
    got = PeriodicInputs([None, 4.0], harmonics=2)(x)
    angle = x[:, 1] * math.pi / 2
    by_hand = [x[:, 0], angle.sin(), (2 * angle).sin(), angle.cos(), (2 * angle).cos()]
    assert torch.allclose(got, torch.stack(by_hand, 1), rtol=1e-14, atol=1e-15)
    features = FourierFeatures(2, 3, scale=2.0, seed=1)
    angles = 2 * math.pi * x @ features.matrix.T
    assert torch.allclose(features(x), torch.cat([angles.cos(), angles.sin()], 1), rtol=1e-14)
    assert features.n_outputs == 6
    assert not list(features.parameters())


def test_fourier_features_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (FourierFeatures(3, 500, 0.7, seed=s).matrix for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(0.7, rel=0.05)
    assert torch.equal(torch.get_rng_state(), state)


def test_scaling_fitted_to_data():
    data = np.random.default_rng(0).normal([280, 0.01], [10, 0.002], (500, 2))
    by_range, by_std = InputScaling.fit(data), InputScaling.fit(torch.from_numpy(data), "std")
    x = by_range(torch.from_numpy(data))
    assert x.amin(0).numpy() == pytest.approx([-1, -1], rel=1e-12)
    assert x.amax(0).numpy() == pytest.approx([1, 1], rel=1e-12)
    z = by_std(torch.from_numpy(data)).numpy()
    assert z.mean(0) == pytest.approx([0, 0], abs=1e-12)
    assert z.std(0) == pytest.approx([1, 1], rel=1e-12)
    ranges = np.stack([data.min(0), data.max(0)], 1)
    assert np.allclose(by_range.ranges, ranges, rtol=1e-14)
    MLP(2, 4, 1, input_range=by_range.ranges)
    assert InputScaling.fit(data, dtype=torch.float32).centre.dtype == torch.float32


# All of them


@pytest.mark.parametrize("name", many())
def test_second_derivatives_exist(name):
    net, x = many()[name], points(6, 3)
    exact = hessians(net, x)
    h = 1e-5
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = h
        difference = (slopes(net, x + step) - slopes(net, x - step)) / (2 * h)
        assert torch.allclose(exact[..., i], difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", many())
def test_save_and_load(name, tmp_path):
    net = randomised(many()[name], 0.5)
    femnn.save(net, tmp_path / "law.safetensors", {"unit": "W"})
    again = femnn.load(tmp_path / "law.safetensors")
    assert type(again) is type(net)
    assert again.metadata == {"unit": "W"}
    x = points(9, 3)
    assert torch.equal(again(x), net(x))


def test_save_and_load_of_a_gradient_in_float32(tmp_path):
    net = Gradient(ConvexMLP(2, 4, 1, dtype=torch.float32))
    femnn.save(net, tmp_path / "flux.safetensors")
    again = femnn.load(tmp_path / "flux.safetensors")
    x = points(4, 2).float()
    assert again(x).dtype == torch.float32
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize("net", [Odd(nn.Linear(2, 1)), nn.Sequential(MLP(2, 1), nn.Tanh())])
def test_a_law_of_an_unknown_module_is_loaded_into_a_module(net, tmp_path):
    femnn.save(net, tmp_path / "law.safetensors")
    with pytest.raises(ValueError, match="cannot build by itself"):
        femnn.load(tmp_path / "law.safetensors")
    femnn.load(tmp_path / "law.safetensors", into=net)


def test_a_layer_that_is_used_twice_is_not_built_as_two(tmp_path):
    inner = MLP(2, 2)
    net = nn.Sequential(inner, inner)
    femnn.save(net, tmp_path / "law.safetensors")
    with pytest.raises(ValueError, match="holds a Sequential, which femnn cannot build"):
        femnn.load(tmp_path / "law.safetensors")


@pytest.mark.parametrize("kind", [MonotoneMLP, ConvexMLP])
def test_configurations_and_seeds(kind):
    state = torch.get_rng_state()
    net = kind(3, 6, 6, 1, increasing=[1], seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    again = kind.from_config(json.loads(json.dumps(net.config)))
    assert again.config == net.config
    one, same = net.state_dict(), again.state_dict()
    other = kind(3, 6, 6, 1, increasing=[1], seed=6).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    single = kind(2, 3, 1, dtype=torch.float32, input_range=(0, 1))
    assert single(points(4, 2).float()).dtype == torch.float32


@pytest.mark.parametrize("name", many())
def test_torch_exports_the_law_for_any_number_of_points(name):
    net = many()[name]
    points_dim = torch.export.Dim("points")
    program = torch.export.export(net, (points(7, 3),), dynamic_shapes=({0: points_dim},))
    x = points(12, 3, seed=1)
    assert torch.allclose(program.module()(x), net(x), rtol=1e-14, atol=1e-14)


SAMPLES = torch.tensor([[1.0, 2.0], [3.0, 2.0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MonotoneMLP(2), r"MonotoneMLP\(2,\): give the number of inputs"),
        (lambda: MonotoneMLP(2, 1, activation="softplus"), "use 'tanh' or 'sigmoid'"),
        (lambda: MonotoneMLP(2, 1, increasing=[2]), "wanted different positions from 0 to 1"),
        (lambda: MonotoneMLP(2, 1, increasing=[0, 0]), "wanted different positions"),
        (lambda: MonotoneMLP(2, 1, increasing=[0], decreasing=[0]), "must share no input"),
        (lambda: MonotoneMLP(2, 1, increasing=[]), "together hold at least one"),
        (lambda: ConvexMLP(2, 1, output=(0, 1)), r"output=\(0, 1\) is not convex"),
        (lambda: ConvexMLP(2, 1, convex=[]), "must hold at least one input"),
        (lambda: ConvexMLP(2, 1, convex=[0], increasing=[1]), "and all of increasing"),
        (lambda: ConvexMLP(2, 1, convex=[-1]), "wanted different positions"),
        (lambda: Odd(MLP(2, 1), []), "Odd: inputs=.*at least one position"),
        (lambda: Even(MLP(2, 1), [2])(SAMPLES.double()), "but there are 2 inputs"),
        (lambda: SymmetricTensor(MLP(2, 3), 0), "n=0, wanted a positive integer"),
        (lambda: SPDTensor(MLP(2, 3), 2, 0.0), "smallest=0.0, wanted a positive number"),
        (lambda: SPDTensor(MLP(2, 4), 2)(SAMPLES.double()), "gave 4 outputs, wanted 3 for n=2"),
        (lambda: PeriodicInputs([None]), "at least one number"),
        (lambda: PeriodicInputs([0.0]), "must hold a positive number or None"),
        (lambda: PeriodicInputs([1.0], 0), "harmonics=0, wanted 1, 2, 3"),
        (lambda: PeriodicInputs([1.0])(SAMPLES), "got 2 inputs for 1 entries of periods"),
        (lambda: FourierFeatures(2, 0), "wanted positive numbers"),
        (lambda: InputScaling.fit(SAMPLES), "column 1 of the data has one value in all"),
        (lambda: InputScaling.fit([[0.0, 1], [math.nan, 2]]), "column 0 of the data holds NaN"),
        (lambda: InputScaling.fit([1.0, 2.0]), r"shape \(2,\), wanted \(samples, inputs\)"),
        (lambda: InputScaling.fit([[1.0, 2.0]]), "at least two samples"),
        (lambda: InputScaling.fit([[1.0], [2.0]], "median"), "method='median' is unknown"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
