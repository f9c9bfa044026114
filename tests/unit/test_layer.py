"""PDELayer: the tape as a torch module."""

import copy

import numpy as np
import pytest
import torch
from checkpoint_schedules import Revolve
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


def test_inputs_that_are_not_tensors_are_refused():
    J, _, _, f, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, Control(f)))
    with pytest.raises(TypeError, match=r"got a ndarray, wanted a torch.Tensor"):
        layer(np.full(25, 10.0))


def test_mixed_controls_and_results_are_refused():
    mesh = UnitIntervalMesh(2)
    W = VectorFunctionSpace(mesh, "CG", 1, dim=2) * FunctionSpace(mesh, "CG", 1)
    continue_annotation()
    w, result, part = Function(W, name="w"), Function(W, name="result"), Function(W.sub(1))
    J = assemble(inner(w, w) * dx)
    result.sub(1).assign(part)
    pause_annotation()
    with pytest.raises(TypeError, match="the control w is in a mixed space, whose values are not"):
        femnn.PDELayer(ReducedFunctional(J, Control(w)))
    with pytest.raises(TypeError, match="the result result is in a mixed space"):
        femnn.PDELayer(ReducedFunctional(result, Control(part)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex128])
def test_inputs_that_are_not_floating_are_refused(dtype):
    J, _, _, f, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, Control(f)))
    with pytest.raises(TypeError, match=r"convert it with \.double\(\)"):
        layer(torch.full((25,), 10, dtype=dtype))


@pytest.mark.parametrize("between", ["a failed solve", "another layer", "the functional"])
def test_the_tape_may_run_elsewhere_before_the_backward(between):
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c)]))
    a, b, k = tensors(f, c)
    loss = layer(a, k)
    (wanted,) = torch.autograd.grad(loss, a, retain_graph=True)
    if between == "a failed solve":
        with pytest.raises(ConvergenceError):
            layer(b, torch.full_like(k, torch.nan))
    elif between == "another layer":
        femnn.PDELayer(ReducedFunctional(J, Control(f)))(b)
    else:
        other = Function(f.function_space()).assign(20.0)
        layer.Jhat([kappa.weights.like(kappa.weights.vector), other, Constant([3.0, 0.0])])
    (found,) = torch.autograd.grad(loss, a)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_several_forwards_on_a_tape_with_checkpoints():
    """The same gradients as on a plain tape, though it holds one evaluation only."""
    results = []
    for schedule in (None, Revolve(6, 2)):
        tape = get_working_tape()
        tape.clear_tape()
        continue_annotation()
        if schedule is not None:
            tape = femnn.enable_checkpointing(schedule)
        V = FunctionSpace(UnitIntervalMesh(6), "CG", 1)
        u, un, v, f = Function(V), Function(V), TestFunction(V), Function(V).assign(3.0)
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
        F = (u - un) / 0.1 * v * dx + kappa * inner(grad(u), grad(v)) * dx - f * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, DirichletBC(V, 0, "on_boundary"))
        solver = femnn.NeuralVariationalSolver(problem, solver_parameters=TIGHT)
        J = 0
        for _ in tape.timestepper(iter(range(6))):
            solver.solve()
            un.assign(u)
            J = J + femnn.assemble(u**2 * dx)
        pause_annotation()
        layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
        a, b = (torch.full((7,), s, dtype=torch.float64, requires_grad=True) for s in (4.0, 6.0))
        (layer(a) * layer(b)).backward()
        results.append([a.grad, b.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-13)


def test_float32_inputs_give_float32():
    J, u, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    exact, _, _ = tensors(f, c)
    single = exact.detach().float().requires_grad_(True)
    loss, wanted = layer(single), layer(exact)
    assert loss.dtype == torch.float32
    loss.backward()
    inside = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    wanted.backward()
    assert single.grad.dtype == torch.float32
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(inside, [p.grad for p in layer.parameters()], rtol=1e-6, atol=0)
    assert {g.dtype for g in inside} == {torch.float64}
    field = femnn.PDELayer(ReducedFunctional(u, [Control(kappa.weights), Control(f)]))
    assert field(single).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_values_and_gradients_come_back_to_the_inputs_device():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    host = tensors(f, c)[0]
    device = host.detach().cuda().requires_grad_(True)
    loss = layer(device)
    assert loss.is_cuda
    loss.backward()
    layer(host).backward()
    assert device.grad.is_cuda
    torch.testing.assert_close(device.grad.cpu(), host.grad)


def test_inputs_without_values_are_refused():
    """A tensor on torch's meta device goes the way of any device's, and has nothing to copy."""
    J, _, _, f, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, Control(f)))
    with pytest.raises(NotImplementedError, match="meta tensor"):
        layer(torch.empty(25, dtype=torch.float64, device="meta"))


def test_without_gradients():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    a = tensors(f, c)[0]
    with torch.no_grad():
        loss = layer(a)
    assert not loss.requires_grad
    assert loss == layer(a).detach()


def test_frozen_weights_get_no_gradient():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    layer.requires_grad_(False)
    a = tensors(f, c)[0]
    layer(a).backward()
    assert a.grad.any()
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trip_of_a_model(tmp_path, assign):
    J, _, kappa, f, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    encoder = torch.nn.Linear(2, 25, dtype=torch.float64)
    model = torch.nn.Sequential(encoder, layer)
    attributes = torch.tensor([0.5, 20.0], dtype=torch.float64)
    before = model(attributes).detach()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3
    assert abs(model(attributes) - before) > 1e-3 * before
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), assign=assign)
    torch.testing.assert_close(model(attributes).detach(), before, rtol=1e-10, atol=0)
    assert all(p is q for p, q in zip(layer.parameters(), kappa.net.parameters(), strict=True))


def named_model(net):
    """A layer of the weights of ``net`` and of a scalar network."""
    V = FunctionSpace(UnitSquareMesh(2, 2), "CG", 1)
    u, v = Function(V), TestFunction(V)
    x, y = SpatialCoordinate(V.mesh())
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus", seed=5), u)
    source = femnn.NeuralCoefficient(net, x, y)
    continue_annotation()
    F = kappa * inner(grad(u), grad(v)) * dx - source * v * dx(degree=source.degree)
    femnn.solve(F == 0, u, DirichletBC(V, 0, "on_boundary"), solver_parameters=TIGHT)
    J = femnn.assemble(u**2 * dx)
    pause_annotation()
    controls = [Control(kappa.weights), Control(source.weights)]
    return femnn.PDELayer(ReducedFunctional(J, controls)), kappa.net


class Blocks(torch.nn.Module):
    """Parts with names of their own, a frozen one, a buffer, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        make = lambda i, o: torch.nn.Linear(i, o, dtype=torch.float64)  # noqa: E731
        self.trunk = torch.nn.ModuleDict({"first": make(2, 4), "hidden": make(4, 4)})
        self.again, self.head = self.trunk["hidden"], make(4, 1)
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.head.bias.requires_grad_(False)
        self.register_buffer("shift", torch.tensor(3.0, dtype=torch.float64))

    def forward(self, x):
        h = torch.tanh(self.trunk["first"](x))
        h = torch.tanh(self.again(torch.tanh(self.trunk["hidden"](h))))
        return self.scale * self.head(h) + self.shift


def test_parameters_have_the_names_that_they_have_in_their_networks(tmp_path):
    """A state is read by people, and loaded into the networks themselves."""
    net = Blocks()
    layer, law = named_model(net)
    trained = [n for n, p in net.named_parameters() if p.requires_grad]
    assert "trunk.hidden.weight" in trained
    expected = [f"networks.0.{n}" for n, _ in law.named_parameters()]
    expected += [f"networks.1.{n}" for n in trained]
    assert [n for n, _ in layer.named_parameters()] == expected
    assert list(layer.state_dict()) == expected
    assert all(
        p is (law if n.startswith("networks.0.") else net).get_parameter(n.split(".", 2)[2])
        for n, p in layer.named_parameters()
    )
    before = layer().item()
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3
    assert abs(layer().item() - before) > 1e-3 * before
    state = torch.load(tmp_path / "layer.pt", weights_only=True)
    law.load_state_dict({n[11:]: t for n, t in state.items() if n.startswith("networks.0.")})
    own = {n[11:]: t for n, t in state.items() if n.startswith("networks.1.")}
    missing, unexpected = net.load_state_dict(own, strict=False)
    assert set(missing) == {"shift", "head.bias", "again.weight", "again.bias"}
    assert unexpected == []
    assert layer().item() == pytest.approx(before, rel=1e-10)


@pytest.mark.parametrize("assign", [False, True])
def test_a_networks_part_of_the_layer_takes_the_state_of_another_network(assign):
    layer, law = named_model(Blocks())
    other = femnn.MLP(1, 3, 1, output="softplus", seed=9)
    before = layer().item()
    layer.networks[0].load_state_dict(other.state_dict(), assign=assign)
    assert all(
        torch.equal(p, q) and p is not q
        for p, q in zip(law.parameters(), other.parameters(), strict=True)
    )
    assert {id(p) for p in layer.networks[0].parameters()} == {id(p) for p in law.parameters()}
    assert abs(layer().item() - before) > 1e-3 * before
    law.load_state_dict(layer.networks[0].state_dict())


def test_an_assembled_residual_as_the_result():
    """The layer gives the residual's entries; its gradients are those of finite differences."""
    V = FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)
    u, v, f = Function(V, name="u"), TestFunction(V), Function(V).assign(2.0)
    u.interpolate(SpatialCoordinate(V.mesh())[0] ** 2)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
    continue_annotation()
    residual = femnn.assemble(kappa * inner(grad(u), grad(v)) * dx - f**2 * v * dx)
    pause_annotation()
    layer = femnn.PDELayer(
        ReducedFunctional(residual, [Control(kappa.weights), Control(u), Control(f)])
    )
    a, b = (torch.tensor(g.dat.data_ro.copy(), requires_grad=True) for g in (u, f))
    np.testing.assert_allclose(layer(a, b).detach(), residual.dat.data_ro, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(
        lambda a, b, *_: layer(a, b), (a, b, *layer.parameters()), eps=1e-6, atol=1e-6
    )


@pytest.mark.parallel([1, 2, 3])
def test_values_at_stations_as_the_result():
    """In the user's order, the same on every rank, with the gradients of a misfit on the tape."""
    _, u, kappa, _, c = recorded()
    places = [(0.3, 0.8), (0.7, 0.1), (0.2, 0.2)]
    stations = femnn.Stations(u.function_space().mesh(), places)
    wanted = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    continue_annotation()
    values = stations(u)
    J = femnn.Observations(stations, wanted.numpy(), std=0.5).misfit(u)
    pause_annotation()
    controls = [Control(kappa.weights), Control(c)]
    layer = femnn.PDELayer(ReducedFunctional(values, controls))
    samples = torch.tensor([[1.0, 2.0], [1.5, 0.0]], dtype=torch.float64, requires_grad=True)
    found = torch.vmap(layer)(samples)
    np.testing.assert_allclose(found[0].detach(), values, rtol=1e-10)
    loss = ((found - wanted) / 0.5).square().sum() / 2
    loss.backward()
    Jhat, expected, weights = ReducedFunctional(J, controls), 0.0, 0.0
    for sample, gradient in zip(samples.detach().numpy(), samples.grad.numpy(), strict=True):
        expected += Jhat([kappa.weights.like(kappa.weights.vector), Constant(sample)])
        of_weights, of_c = Jhat.derivative()
        weights = weights + of_weights.vector
        np.testing.assert_allclose(gradient, of_c.dat.data_ro, rtol=1e-8)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    together = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
    np.testing.assert_allclose(together, weights, rtol=1e-8, atol=1e-12)


@pytest.mark.parallel([2, 3])
def test_losses_of_values_at_stations_that_differ_between_ranks_are_an_error():
    _, u, kappa, _, _ = recorded()
    continue_annotation()
    values = femnn.Stations(u.function_space().mesh(), [(0.3, 0.8), (0.7, 0.1)])(u)
    pause_annotation()
    layer = femnn.PDELayer(ReducedFunctional(values, Control(kappa.weights)))
    with pytest.raises(RuntimeError, match="gradients of the loss for the values differ"):
        (layer() * (1 + COMM_WORLD.rank)).sum().backward()


def test_results_of_another_kind_are_refused():
    weights = femnn.Weights.of(femnn.MLP(1, 3, 1))
    continue_annotation()
    value = 2.0 * weights
    pause_annotation()
    with pytest.raises(TypeError, match="functional is a Weights, wanted a number, values at"):
        femnn.PDELayer(ReducedFunctional(value, Control(weights)))


def test_a_layer_is_not_copied():
    J, _, kappa, _, _ = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, Control(kappa.weights)))
    with pytest.raises(TypeError, match="PDELayer: cannot be copied or pickled"):
        copy.deepcopy(torch.nn.Sequential(layer))


def test_functional_transforms():
    """vmap takes samples one by one; what is not possible says so."""
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c)]))
    a, b, k = tensors(f, c)
    k = k.detach()
    samples = torch.stack([a, b], dim=1).detach().requires_grad_(True)
    torch.vmap(lambda x: layer(x, k), in_dims=1)(samples).square().sum().backward()
    together = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    (layer(a, k) ** 2 + layer(b, k) ** 2).backward()
    torch.testing.assert_close(samples.grad, torch.stack([a.grad, b.grad], 1), rtol=1e-10, atol=0)
    wanted = [p.grad for p in layer.parameters()]
    torch.testing.assert_close(together, wanted, rtol=1e-10, atol=1e-14)
    loss = lambda x: layer(x, k)  # noqa: E731
    torch.testing.assert_close(
        torch.func.grad(lambda x: loss(x) ** 2)(a.detach()), a.grad, rtol=1e-10, atol=0
    )
    with pytest.raises(RuntimeError, match="vmap over a gradient is not possible"):
        torch.vmap(torch.func.grad(loss), in_dims=1)(samples.detach())
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(loss, (a.detach(),), (b.detach(),))


def test_functional_call_with_other_weights():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f)]))
    a = tensors(f, c)[0].detach()
    other = {name: (p + 0.1).detach().requires_grad_() for name, p in layer.named_parameters()}
    loss = torch.func.functional_call(layer, other, (a,))
    grads = torch.autograd.grad(loss, list(other.values()))
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.1
    wanted = torch.autograd.grad(layer(a), list(layer.parameters()))
    torch.testing.assert_close(grads, wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parallel([2, 3])
def test_ranks_that_differ_are_an_error_on_all():
    J, _, kappa, f, c = recorded()
    layer = femnn.PDELayer(ReducedFunctional(J, [Control(kappa.weights), Control(f), Control(c)]))
    a, _, k = tensors(f, c)
    rank = COMM_WORLD.rank
    with pytest.raises(RuntimeError, match="weights or Constants differ between ranks"):
        layer(a, k + rank)
    with pytest.raises(RuntimeError, match="the factors of the loss differ between ranks"):
        (layer(a, k) * (1 + rank)).backward()
    with pytest.raises((ValueError, RuntimeError), match=r"wanted|another rank got wrong inputs"):
        layer(a[:-1] if rank else a, k)
    with pytest.raises((TypeError, RuntimeError), match=r"wanted|another rank got wrong inputs"):
        layer(a.tolist() if rank else a, k)
    with pytest.raises((ValueError, RuntimeError), match=r"wanted|another rank got wrong inputs"):
        layer(*((a,) if rank else (a, k)))
    with torch.no_grad():
        next(iter(layer.parameters())).add_(rank)
    with pytest.raises(RuntimeError, match="weights or Constants differ between ranks"):
        layer(a, k)


@pytest.mark.parallel([1, 2, 3])
def test_a_field_and_networks_outside_do_not_depend_on_ranks():
    """Each rank has its part of the loss; gradients outside are summed, those inside are not."""
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        _, u, kappa, f, _ = recorded(comm)
        layer = femnn.PDELayer(ReducedFunctional(u, [Control(kappa.weights), Control(f)]))
        X = Function(VectorFunctionSpace(f.function_space().mesh(), "CG", 1))
        X.interpolate(SpatialCoordinate(X.function_space().mesh()))
        places = torch.tensor(X.dat.data_ro.copy())
        encoder = femnn.MLP(2, 4, 1, seed=3)
        loss = ((layer(10 + encoder(places)[:, 0]) - places[:, 0]) ** 2).sum()
        loss.backward()
        outside = np.concatenate([p.grad.numpy().ravel() for p in encoder.parameters()])
        outside = comm.allreduce(outside)
        inside = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
        results.append((comm.allreduce(loss.item()), outside, inside))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-11)


@pytest.mark.parallel([1, 2, 3])
def test_an_assembled_residual_does_not_depend_on_ranks():
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        V = FunctionSpace(UnitSquareMesh(4, 4, comm=comm), "CG", 1)
        u, v = Function(V), TestFunction(V)
        x, y = SpatialCoordinate(V.mesh())
        u.interpolate(x * y**2)
        kappa = femnn.NeuralCoefficient(femnn.MLP(1, 4, 1, output="softplus"), u)
        continue_annotation()
        residual = femnn.assemble(kappa * inner(grad(u), grad(v)) * dx)
        pause_annotation()
        layer = femnn.PDELayer(ReducedFunctional(residual, [Control(kappa.weights), Control(u)]))
        a = torch.tensor(u.dat.data_ro.copy(), requires_grad=True)
        entries = layer(a)
        entries.square().sum().backward()
        inside = np.concatenate([p.grad.numpy().ravel() for p in layer.parameters()])
        total = comm.allreduce(entries.square().sum().item())
        results.append((total, inside, comm.allreduce(a.grad.square().sum().item())))
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-13)


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
        results.append((loss.item(), total, weights))
    (loss, total, weights), (loss_alone, total_alone, weights_alone) = results
    assert loss == pytest.approx(loss_alone, rel=1e-10)
    assert total == pytest.approx(total_alone, rel=1e-9)
    np.testing.assert_allclose(weights, weights_alone, rtol=1e-8, atol=1e-12)
