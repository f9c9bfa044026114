"""Networks written out in UFL: the values are torch's."""

import numpy as np
import pytest
import torch
from firedrake import (
    Constant,
    Function,
    FunctionSpace,
    SpatialCoordinate,
    UnitSquareMesh,
    VectorFunctionSpace,
    as_vector,
    assemble,
    exp,
    interpolate,
)
from torch import nn
from ufl.domain import extract_unique_domain

import femnn
from femnn.export import to_ufl as symbolic
from femnn.networks.mlp import ACTIVATIONS, Output


def nets():
    """One network of three inputs for each rule."""
    double = {"dtype": torch.float64}
    layers = [nn.Linear(3, 4, **double)]
    layers += [nn.Softplus(2.0, threshold=40), nn.Identity(), nn.Linear(4, 2, bias=False, **double)]
    mlp, energy = femnn.MLP(3, 4, 2), femnn.ConvexMLP(3, 4, 1)
    return {
        **{a: femnn.MLP(3, 4, 1, activation=a, input_range=(-1, 2)) for a in ACTIVATIONS},
        "sequential": nn.Sequential(*layers),
        "bounds": nn.Sequential(mlp, Output((1, 3))),
        "exp": nn.Sequential(mlp, Output("exp")),
        "softplus output": femnn.MLP(3, 4, 1, output="softplus"),
        "fitted": nn.Sequential(femnn.InputScaling.fit(np.eye(3), "std"), mlp),
        "periodic": nn.Sequential(femnn.PeriodicInputs([0.7, None, 2.0], 2), femnn.MLP(9, 2)),
        "fourier": nn.Sequential(femnn.FourierFeatures(3, 2), femnn.MLP(4, 2)),
        "monotone": femnn.MonotoneMLP(3, 4, 3, 2, increasing=[2], decreasing=[0], output=(0, 1)),
        "all monotone": femnn.MonotoneMLP(3, 4, 1, activation="sigmoid", input_range=(0, 1)),
        "convex": femnn.ConvexMLP(3, 4, 3, 1, convex=[0, 2], increasing=[2], output="softplus"),
        "all convex": energy,
        "flux": femnn.Gradient(energy),
        "odd": femnn.Odd(mlp, [0, 2]),
        "even": femnn.Even(mlp),
        "symmetric": femnn.SymmetricTensor(femnn.MLP(3, 3), 2),
        "definite": femnn.SPDTensor(femnn.MLP(3, 6), 3),
    }


@pytest.fixture(scope="module")
def operands():
    x, y = SpatialCoordinate(UnitSquareMesh(2, 2))
    return [2 * x - 0.7, exp(y) - 1.5, x * y]


def at_nodes(expressions, operands):
    """Values at the nodes of the mesh, shape (points, expressions)."""
    mesh = extract_unique_domain(operands[0])
    V = VectorFunctionSpace(mesh, "CG", 1, dim=len(expressions))
    values = assemble(interpolate(as_vector(expressions), V)).dat.data_ro
    return values.reshape(-1, len(expressions))


def values_of(net, operands):
    with torch.no_grad():
        return net(torch.from_numpy(at_nodes(operands, operands).copy())).numpy()


def randomise(net, scale):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, scale, generator=generator)


@pytest.mark.parametrize("name", nets())
def test_the_values_are_torchs(name, operands):
    net = nets()[name]
    randomise(net, 1.0)
    expected = values_of(net, operands)
    written = femnn.to_ufl(net, *operands)
    assert len(written) == expected.shape[1]
    got = at_nodes(written, operands)
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-12 * abs(expected).max())


@pytest.mark.parametrize("name", ["monotone", "convex", "odd"])
def test_weights_as_constants(name, operands):
    """In the order of the parameters, also where a module is used twice."""
    net = nets()[name]
    randomise(net, 1.0)
    numbers = np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])
    expected = at_nodes(femnn.to_ufl(net, *operands), operands)
    weights = [Constant(w) for w in numbers]
    got = at_nodes(femnn.to_ufl(net, *operands, weights=weights), operands)
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-13)


def test_frozen_weights_stay_numbers():
    net = femnn.MLP(1, 2, 1)
    for p in net.layers[0].parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="got 7 weights for a network that has 3"):
        femnn.to_ufl(net, 0.5, weights=[0.0] * 7)
    (value,) = femnn.to_ufl(net, 0.5, weights=[0.0, 0.0, 2.0])
    assert float(value) == 2.0


def test_the_derivative_of_softplus_at_zero(operands):
    """A flux at no gradient, where a written maximum would have no derivative."""
    net = femnn.Gradient(femnn.ConvexMLP(3, 1))
    assert np.allclose(
        at_nodes(femnn.to_ufl(net, *[0 * op for op in operands]), operands),
        net(torch.zeros(1, 3, dtype=torch.float64)).detach().numpy(),
    )
    mesh = extract_unique_domain(operands[0])
    u = Function(FunctionSpace(mesh, "CG", 1))
    slope = femnn.Gradient(nn.Sequential(Output("softplus")))
    (written,) = femnn.to_ufl(slope, u)
    assert np.allclose(at_nodes([written], operands), 0.5, rtol=1e-14)


class Cubed(nn.Module):
    def forward(self, x):
        return x**3


class Shifted(femnn.MLP):
    def forward(self, x):
        return super().forward(x) + 1


class Renamed(femnn.MLP):
    pass


def test_other_modules_are_refused_until_they_have_a_rule(operands, monkeypatch):
    monkeypatch.setattr(symbolic, "RULES", dict(symbolic.RULES))
    net = nn.Sequential(femnn.MLP(3, 2), Cubed())
    with pytest.raises(NotImplementedError, match=r"cannot write out a Cubed: it knows .*MLP"):
        femnn.to_ufl(net, *operands)
    symbolic.rule(Cubed)(lambda write, layer, x: [xi**3 for xi in x])
    got = at_nodes(femnn.to_ufl(net, *operands), operands)
    assert np.allclose(got, values_of(net, operands), rtol=1e-12)


def test_a_subclass_is_written_as_its_base_only_if_it_computes_the_same(operands):
    assert len(femnn.to_ufl(Renamed(3, 2), *operands)) == 2
    with pytest.raises(NotImplementedError, match="cannot write out a Shifted"):
        femnn.to_ufl(Shifted(3, 2), *operands)
    with pytest.raises(NotImplementedError, match="only the exact one"):
        femnn.to_ufl(nn.GELU(approximate="tanh"), *operands)


@pytest.mark.parametrize(
    "name", ["tanh", "sequential", "periodic", "fourier", "monotone", "convex", "symmetric"]
)
def test_the_wrong_number_of_operands(name, operands):
    with pytest.raises(ValueError, match="to_ufl: got 2 inputs for a"):
        femnn.to_ufl(nets()[name], *operands[:2])
