"""Runge-Kutta steps at points: orders, derivatives, errors."""

import numpy as np
import pytest
import torch

import femnn
from femnn.time.runge_kutta import METHODS


class Spiral(torch.nn.Module):
    """A damped nonlinear oscillator with forcing: y' = f(y, p, t)."""

    def forward(self, x):
        y, z, p, t = x.T
        return torch.stack([z - y**3 / 5, -p * y - z / 3 + torch.cos(t)], dim=1)


def inputs(dt, n=4):
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.uniform(0.5, 1.5, (n, 3)))
    return torch.cat([start, torch.full((n, 1), 0.2), torch.full((n, 1), dt)], dim=1).double()


@pytest.mark.parametrize("method", METHODS)
def test_order_of_each_method(method):
    reference = femnn.RungeKutta(Spiral(), 2, "rk4", substeps=2000, timed=True)(inputs(1.0))
    errors = []
    for substeps in (20, 40):
        found = femnn.RungeKutta(Spiral(), 2, method, substeps, timed=True)(inputs(1.0))
        errors.append(float((found - reference).abs().max()))
    order = np.log2(errors[0] / errors[1])
    assert order == pytest.approx(METHODS[method].order, abs=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_first_and_second_derivatives(method):
    net = femnn.MLP(3, 5, 2, seed=1)
    step = femnn.RungeKutta(net, 2, method, substeps=2)
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    given = (x, *net.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: step(x), given)
    assert torch.autograd.gradgradcheck(lambda x, *_: step(x), given)


def test_implicit_methods_are_stable_where_explicit_ones_are_not():
    class Stiff(torch.nn.Module):
        def forward(self, x):
            return -1000 * (x[:, :1] - torch.cos(x[:, 1:]))

    x = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    explicit = femnn.RungeKutta(Stiff(), 1, "rk4", substeps=20, timed=True)(x)
    implicit = femnn.RungeKutta(Stiff(), 1, "sdirk2", substeps=20, timed=True)(x)
    assert float(explicit.abs()) > 1e3
    assert float(implicit) == pytest.approx(np.cos(1.0), abs=1e-3)


def test_a_stage_without_a_solution_is_nan_at_its_point_alone():
    class Square(torch.nn.Module):
        def forward(self, x):
            return 1 + x[:, :1] ** 2

    # k = 1 + (y + h k)^2 has real solutions for small h only.
    x = torch.tensor([[0.0, 0.1], [0.0, 5.0]], dtype=torch.float64)
    values = femnn.RungeKutta(Square(), 1, "backward_euler")(x)
    assert torch.isfinite(values).ravel().tolist() == [True, False]


@pytest.mark.parametrize("method", ["backward_euler", "implicit_midpoint", "sdirk2"])
def test_stages_where_undamped_newton_diverges(method):
    class Steep(torch.nn.Module):
        def forward(self, x):
            return -50 * torch.arctan(20 * (x[:, :1] - 3.0))

    # Newton's method from k = 0 overshoots further and further on an arctan.
    step = femnn.RungeKutta(Steep(), 1, method)
    x = torch.tensor([[0.0, 1.0], [6.5, 2.0], [3.0, 1.0]], dtype=torch.float64)
    stage = {"backward_euler": 1.0, "implicit_midpoint": 0.5, "sdirk2": 1 - 2**-0.5}[method]
    h = stage * x[:, 1:]
    k = step._converged(x[:, :1], h, x[:, :0], x[:, :0])
    assert torch.allclose(k, Steep()(x[:, :1] + h * k), rtol=1e-9, atol=1e-9)
    assert bool(torch.isfinite(step(x)).all())


@pytest.mark.parametrize("method", ["backward_euler", "implicit_midpoint", "sdirk2"])
@pytest.mark.parametrize(("rate", "rest", "length"), [(1e4, 300.0, 1e-4), (1e3, 1e5, 1e-3)])
def test_stages_near_rest_where_the_unknown_is_large(method, rate, rest, length):
    """There the rate's rounding is large next to the rate, but nothing next to the unknown."""

    class Relaxation(torch.nn.Module):
        def forward(self, x):
            return -rate * (x - rest)

    offset = 1e-3 * torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    x = torch.cat([rest + offset, torch.full_like(offset, length)], dim=1)
    values = femnn.RungeKutta(Relaxation(), 1, method)(x)
    assert bool((abs(values - rest) <= offset + 1e-15 * rest).all())


def test_a_step_of_no_length_changes_nothing():
    net = femnn.MLP(1, 5, 1, seed=1)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(femnn.RungeKutta(net, 1, "sdirk2")(x), x[:, :1])


def test_single_precision_converges():
    net = femnn.MLP(1, 5, 1, seed=1, dtype=torch.float32)
    x = torch.tensor([[0.3, 0.5]])
    single = femnn.RungeKutta(net, 1, "implicit_midpoint")(x)
    double = femnn.RungeKutta(net.double(), 1, "implicit_midpoint")(x.double())
    assert torch.allclose(single.double(), double, atol=1e-6)


def test_wrong_arguments_are_named():
    net = femnn.MLP(1, 5, 1)
    with pytest.raises(ValueError, match="method='rk5' is unknown: use one of forward_euler, heun"):
        femnn.RungeKutta(net, 1, "rk5")
    with pytest.raises(ValueError, match="substeps=0: wanted a positive whole number"):
        femnn.RungeKutta(net, 1, substeps=0)
    with pytest.raises(ValueError, match=r"MLP returned \(1,\) values for each point, wanted 2"):
        femnn.RungeKutta(femnn.MLP(2, 5, 1), 2)(torch.zeros(3, 3, dtype=torch.float64))
