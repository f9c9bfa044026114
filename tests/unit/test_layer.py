"""PDELayer: the tape as a torch module."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *

import femnn

TIGHT = {"snes_rtol": 1e-12}


def recorded(comm=COMM_WORLD):
    """A nonlinear problem: the loss, the solution and their controls."""
    continue_annotation()
    mesh = UnitSquareMesh(4, 4, comm=comm)
    V = FunctionSpace(mesh, "CG", 1)
    u, v = Function(V, name="u"), TestFunction(V)
    f = Function(V, name="f").assign(10.0)
    c = Constant([1.0, 2.0], name="c")
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 5, 1, output="softplus"), u)
    F = kappa * inner(grad(u), grad(v)) * dx - (c[0] * f + c[1]) * v * dx
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    return J, u, kappa, f, c


def tensors(f, c):
    n = len(f.dat.data_ro)
    one = torch.full((n,), 10.0, dtype=torch.float64, requires_grad=True)
    other = torch.full((n,), 14.0, dtype=torch.float64, requires_grad=True)
    return one, other, torch.tensor(c.dat.data_ro.copy(), requires_grad=True)


def test_two_forwards_then_one_backward():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c)]))
    a, b, k = tensors(f, c)
    (layer(a, k) + layer(b, k)).backward()
    together = [t.grad.clone() for t in (a, b, k, *layer.parameters())]
    for t in (a, b, k, *layer.parameters()):
        t.grad = None
    layer(a, k).backward()
    layer(b, k).backward()
    for grad, t in zip(together, (a, b, k, *layer.parameters()), strict=True):
        torch.testing.assert_close(grad, t.grad, rtol=1e-10, atol=1e-14)
    assert not torch.allclose(a.grad, b.grad), "a nonlinear problem has two gradients"


def test_gradcheck_of_loss_and_of_field():
    J, u, kappa, f, c = recorded()
    a, _, k = tensors(f, c)
    loss = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c)]))
    assert torch.autograd.gradcheck(
        lambda a, k, *_: loss(a, k), (a, k, *loss.parameters()), eps=1e-5, atol=1e-6
    )
    field = femnn.PDELayer(ReducedFunctional(u, [Control(kappa.weights), Control(f)]))
    assert torch.autograd.gradcheck(
        lambda a, *_: field(a), (a, *field.parameters()), eps=1e-5, atol=1e-6
    )


def test_parameters_are_those_of_the_network_inside():
    J, _, kappa, _, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, Control(kappa.weights)))
    assert {id(p) for p in layer.parameters()} == {id(p) for p in kappa.net.parameters()}
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-2)
    before = layer()
    before.backward()
    optimiser.step()
    assert layer() < before


def test_an_encoder_outside_and_a_network_inside_train_together():
    _, u, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(u, [Control(kappa.weights), Control(f)]))
    with torch.no_grad():
        wanted = 1.5 * layer(tensors(f, c)[1])
    encoder = torch.nn.Linear(1, len(wanted), dtype=torch.float64)
    model = torch.nn.ModuleList([encoder, layer])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-2)
    attribute = torch.ones(1, dtype=torch.float64)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = ((layer(10 + encoder(attribute)) - wanted) ** 2).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-2 * losses[0]


def test_double_backward_says_that_it_does_not_work():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    a = tensors(f, c)[0]
    (grad,) = torch.autograd.grad(layer(a), a, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not possible"):
        grad.sum().backward()


def test_wrong_inputs_are_named():
    J, _, kappa, f, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    with pytest.raises(ValueError, match="got 0 inputs, wanted 1"):
        layer()
    with pytest.raises(ValueError, match=r"shape \(3,\).*wanted \(25,\)"):
        layer(torch.zeros(3, dtype=torch.float64))


@pytest.mark.parallel([1, 2, 3])
def test_values_and_gradients_do_not_depend_on_ranks():
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        J, _, kappa, f, c = recorded(comm)
        layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
        a = tensors(f, c)[0]
        loss = layer(a)
        loss.backward()
        total = comm.allreduce(float(a.grad.sum()))
        weights = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
        results.append((float(loss), total, weights))
    (loss, total, weights), (loss_alone, total_alone, weights_alone) = results
    assert loss == pytest.approx(loss_alone, rel=1e-10)
    assert total == pytest.approx(total_alone, rel=1e-9)
    np.testing.assert_allclose(weights, weights_alone, rtol=1e-8, atol=1e-12)
