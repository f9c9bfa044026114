"""Networks outside and inside a PDE, trained together through PDELayer."""

import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from torch import nn

import femnn

TIGHT = {"snes_rtol": 1e-13, "snes_atol": 1e-14}
DOUBLE = torch.float64


def diffusion(target, nodal=False):
    """-div(a m kappa(u) grad u) = f, with a number ``a`` and where ``nodal`` a nodal field ``m``.

    The functional is the squared distance to a field that is an input too (``target``), or the
    solution.
    """
    mesh = UnitSquareMesh(4, 4)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    f, data = Function(V, name="f").assign(10.0), Function(V, name="data")
    a, m = Constant(1.0, name="a"), Function(V, name="m").assign(1.0)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 5, 1, output="softplus", seed=2), u)
    continue_annotation()
    F = a * m * kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble((u - data) ** 2 * dx) if target else u
    pause_annotation()
    fields = [f, data] if target else [m if nodal else a]
    return femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), *map(Control, fields)]))


def sources(n):
    """Source fields of ``n`` samples, and what they shall lead to."""
    generator = torch.Generator().manual_seed(0)
    f = 10 + 4 * torch.rand(n, 25, dtype=DOUBLE, generator=generator)
    return f, 0.1 * torch.rand(n, 25, dtype=DOUBLE, generator=generator)


def gradient_of(layer):
    return torch.cat([p.grad.reshape(-1) for p in layer.parameters()])


def test_accumulated_minibatches_give_the_full_batchs_gradient():
    layer = diffusion(target=True)
    f, data = sources(6)
    torch.vmap(layer)(f, data).sum().backward()
    full = gradient_of(layer)
    layer.zero_grad()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(f, data), batch_size=2)
    for some_f, some_data in loader:
        sum(layer(*sample) for sample in zip(some_f, some_data, strict=True)).backward()
    torch.testing.assert_close(gradient_of(layer), full, rtol=1e-10, atol=1e-10 * full.abs().max())


OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_torch_optimisers(name):
    layer = diffusion(target=True)
    f, data = sources(2)
    optimiser = OPTIMISERS[name](layer.parameters())

    def closure():
        optimiser.zero_grad()
        loss = torch.vmap(layer)(f, data).sum()
        loss.backward()
        return loss

    steps = 3 if name == "LBFGS" else 8  # of which each has several iterations
    losses = [optimiser.step(closure).item() for _ in range(steps)]
    assert closure().item() < 0.7 * losses[0]


class Amplitude(nn.Module):
    """A series of forcing to a factor, by an LSTM."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 4, batch_first=True, dtype=DOUBLE)
        self.head = nn.Linear(4, 1, dtype=DOUBLE)

    def forward(self, series):
        states, _ = self.lstm(series[None, :, None])
        return nn.functional.softplus(self.head(states[0, -1]) + 0.5)[0]


class Image(nn.Module):
    """An image of the domain to a nodal field, by a CNN and the pixels at the vertices."""

    def __init__(self, pixels):
        super().__init__()
        self.pixels = pixels
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, dtype=DOUBLE),
            nn.Tanh(),
            nn.Conv2d(4, 1, 3, padding=1, dtype=DOUBLE),
            nn.Softplus(),
        )

    def forward(self, image):
        return self.layers(image[None, None])[0, 0].reshape(-1)[self.pixels]


def vertex_pixels(n):
    """For each vertex of the unit square's mesh, its pixel in an image of (n + 1) x (n + 1)."""
    places = Function(VectorFunctionSpace(UnitSquareMesh(n, n), "CG", 1))
    places.interpolate(SpatialCoordinate(places.function_space().mesh()))
    column, row = torch.tensor(places.dat.data_ro * n).round().long().T
    return row * (n + 1) + column


def outside(kind):
    """A network outside, its samples, and the layer that takes what it gives."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(3)  # torch's own modules know no other way
    if kind == "LSTM":
        network, shape = Amplitude(), (12,)
    else:
        network, shape = Image(vertex_pixels(4)), (5, 5)
    samples = torch.rand(3, *shape, dtype=DOUBLE, generator=generator)
    return network, samples, diffusion(target=False, nodal=kind == "CNN")


@pytest.mark.parametrize("kind", ["LSTM", "CNN"])
def test_recurrent_and_convolutional_networks_outside(kind):
    """The whole model's gradient is that of finite differences; training lowers the loss."""
    network, samples, layer = outside(kind)
    model = nn.Sequential(network, layer)
    with torch.no_grad():
        data = torch.stack([(1.2 + 0.5 * s.mean()) * model(s) for s in samples])

    def loss():
        return sum(((model(s) - d) ** 2).sum() for s, d in zip(samples, data, strict=True))

    check_directional_derivative(loss, [*network.parameters()])
    check_directional_derivative(loss, [*layer.parameters()])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.2 * losses[0]


def check_directional_derivative(loss, parameters):
    """By central differences, whose error falls with the square of the step."""
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, dtype=DOUBLE, generator=generator) for p in parameters]
    grads = torch.autograd.grad(loss(), parameters)
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    steps, errors = (2e-2, 1e-2), []
    for step in steps:
        values = []
        for sign in (1, -2):  # from the point to +step, from there to -step
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p += sign * step * d
                values.append(loss())
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        errors.append(abs((values[0] - values[1]) / (2 * step) - slope) / abs(slope))
    assert errors[1] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


class Number(nn.Module):
    """A positive constant, whatever the inputs."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 1, dtype=DOUBLE))

    def forward(self, x):
        return nn.functional.softplus(self.raw).expand(len(x), 1)


def joint_loss(encoder, law):
    """The loss after training an encoder of sites' attributes and a law inside together.

    The exchange of heat at one end is a function of a site's attribute, the conductivity one of
    the temperature, the same for all sites.
    """
    get_working_tape().clear_tape()
    V = FunctionSpace(UnitIntervalMesh(10), "CG", 2)
    u, v, data = Function(V), TestFunction(V), Function(V)
    theta = Constant(1.0)
    attributes = torch.linspace(0, 1, 5, dtype=DOUBLE)[:, None]

    def form(kappa):
        exchange = theta * (3 - u) * v * ds(2)
        return kappa * inner(grad(u), grad(v)) * dx - 2 * v * dx - exchange

    bc, rows = DirichletBC(V, 0, 1), []
    for attribute in attributes[:, 0]:
        theta.assign(0.3 + 2 * attribute.item() ** 2)
        solve(form(0.3 + 0.15 * u**2) == 0, u, bc)
        rows.append(torch.tensor(u.dat.data_ro.copy()))
    kappa = femnn.NeuralCoefficient(law, u.assign(0))
    continue_annotation()
    femnn.solve(form(kappa) == 0, u, bc)
    J = femnn.assemble((u - data) ** 2 * dx)
    pause_annotation()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(c) for c in (kappa.weights, theta, data)]))
    optimiser = torch.optim.LBFGS(
        [*encoder.parameters(), *layer.parameters()], max_iter=30, line_search_fn="strong_wolfe"
    )
    losses = []

    def closure():
        optimiser.zero_grad()
        loss = torch.vmap(layer)(encoder(attributes)[:, 0], torch.stack(rows)).mean()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimiser.step(closure)
    return min(losses)


def test_an_encoder_and_a_network_inside_fit_what_neither_alone_can():
    """Alone means: the best constant, trained as well, in the other's place."""
    encoder = lambda: femnn.MLP(1, 8, 1, output="softplus", seed=1)  # noqa: E731
    law = lambda: femnn.MLP(1, 8, 1, output="softplus", input_range=(0, 3))  # noqa: E731
    both = joint_loss(encoder(), law())
    assert both < 0.05 * joint_loss(encoder(), Number())
    assert both < 0.05 * joint_loss(Number(), law())
