"""apply: torch modules as nodes of the tape, and what is refused."""

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from torch import nn

import femnn

DOUBLE = torch.float64


class Cube(nn.Module):
    """A power of each number, times a weight."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))

    def forward(self, x):
        return self.factor * x**3


class Random(nn.Module):
    """Different at each call, in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.dropout = how, nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(1, dtype=DOUBLE)
        self.register_buffer("calls", torch.zeros((), dtype=DOUBLE))

    def forward(self, x):
        if self.how == "dropout":
            return self.dropout(x)
        if self.how == "functional dropout":
            return nn.functional.dropout(x, 0.5)
        if self.how == "random slope":
            return nn.functional.rrelu(x - 1, training=True)
        if self.how == "batch normalisation":
            return self.norm(x[:, None])[:, 0]
        self.calls += 1
        return x * self.calls


class Sum(nn.Module):
    """One number from all that the rank owns."""

    def __init__(self, shape=()):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return (x**2).sum().reshape(self.shape)


class Raises(nn.Module):
    """Raises on one rank, at one place."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.where = rank, None
        self.factor = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))

    def forward(self, x):
        if self.where == "forward" and COMM_WORLD.rank == self.rank:
            raise KeyError("mine")
        if self.where == "shape" and COMM_WORLD.rank == self.rank:
            return x[:-1]
        return BadBackward.apply(self.factor * x, self)


class BadBackward(torch.autograd.Function):
    """The identity, whose derivative may raise."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.module.where == "backward" and COMM_WORLD.rank == ctx.module.rank:
            raise KeyError("mine")
        return grad, None


@pytest.fixture
def V():
    return FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)


def check_derivatives(J, controls, directions):
    values = [c.control for c in controls]
    Jhat = ReducedFunctional(J, controls)
    rates = taylor_to_dict(Jhat, values, directions)
    assert min(rates["R1"]["Rate"]) > 1.95
    assert min(rates["R2"]["Rate"]) > 2.9


def test_a_number_made_from_a_number_in_a_functional():
    """Its adjoint value comes as one of numpy's numbers."""
    V = FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)
    f = Function(V).interpolate(SpatialCoordinate(V.mesh())[0])
    net, c = Cube(), Constant(0.5)
    continue_annotation()
    h = femnn.apply(net, c, into=Constant(0.0))
    J = femnn.assemble(h**2 * f * dx)
    pause_annotation()
    weights = femnn.Weights.of(net)
    controls = [Control(c), Control(weights), Control(f)]
    check_derivatives(J, controls, [Constant(1.0), weights.like([1.0]), Function(V).assign(1.0)])


class Misfit(nn.Module):
    """A loss of several fields and of numbers, with a weight."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))

    def forward(self, u, v, number, c):
        return (self.factor * (u - v) ** 2 * c + torch.sin(number) * u * v).sum()


@pytest.mark.parallel([1, 2, 3])
def test_a_loss_of_several_fields_is_the_sum_over_ranks():
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(4, 4, comm=comm)
        V = FunctionSpace(mesh, "CG", 1)
        x, y = SpatialCoordinate(mesh)
        u, v, c = Function(V).interpolate(x), Function(V).interpolate(x * y), Constant(0.7)
        net = Misfit()
        continue_annotation()
        number = femnn.assemble(u**2 * dx)
        J = femnn.apply(net, u, v, number, c, into=float)
        pause_annotation()
        w = femnn.Weights.of(net)
        controls = [Control(u), Control(w), Control(c)]
        dw, dc = ReducedFunctional(J, controls).derivative()[1:]
        results.append([J, *dw, float(dc)])
        if comm.size == COMM_WORLD.size:
            steps = [Function(V).interpolate(y), w.like([0.3]), Constant(0.4)]
            check_derivatives(J, controls, steps)
            assert type(J) is AdjFloat
    assert np.allclose(*results, rtol=1e-12)


def test_a_number_from_numbers_is_one_on_all_ranks():
    net, c = Cube(), Constant(0.5)
    continue_annotation()
    J = femnn.apply(net, c, into=float)
    K = femnn.apply(net, J, into=float)
    pause_annotation()
    assert (J, K) == (0.25, 2 * 0.25**3)
    check_derivatives(K, [Control(c)], [Constant(1.0)])


@pytest.mark.parallel([1, 2, 3])
def test_a_function_on_the_real_space_is_the_same_on_all_ranks():
    """Into a Real space and from one into a field: gradients that do not depend on ranks."""
    results = []
    for comm in (COMM_WORLD, COMM_SELF):
        get_working_tape().clear_tape()
        mesh = UnitSquareMesh(4, 4, comm=comm)
        V, R = FunctionSpace(mesh, "CG", 1), FunctionSpace(mesh, "R", 0)
        f = Function(V).interpolate(SpatialCoordinate(mesh)[0])
        r, net, spread = Function(R).assign(0.5), Cube(), Spread()
        continue_annotation()
        h = femnn.apply(net, r, into=R)
        g = femnn.apply(spread, f, h, into=V)
        J = femnn.assemble(g**2 * f * dx)
        pause_annotation()
        weights = [femnn.Weights.of(n) for n in (net, spread)]
        controls = [Control(x) for x in (r, *weights, f)]
        dr, d1, d2, _ = ReducedFunctional(J, controls).derivative()
        results.append([J, dr.dat.data_ro[0], *d1, *d2])
        directions = [Function(R).assign(1.0), weights[0] * 0 + 1.0, weights[1] * 0 + 1.0]
        check_derivatives(J, controls, [*directions, Function(V).assign(1.0)])
    np.testing.assert_allclose(*results, rtol=1e-10)


class Spread(nn.Module):
    """A field from a field and a number."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))

    def forward(self, field, number):
        return torch.sin(self.factor * field) * (1 + number**2)


@pytest.mark.parametrize("how", ["subfunctions", "sub"])
def test_parts_of_mixed_fields(V, how):
    W = V * V
    w, direction = Function(W), Function(W)
    w.sub(0).interpolate(SpatialCoordinate(V.mesh())[0] + 1)
    direction.sub(0).assign(1.0)
    net = Cube()
    continue_annotation()
    moved = Function(W).assign(w)
    part = moved.subfunctions[0] if how == "subfunctions" else moved.sub(0)
    J = femnn.assemble(femnn.apply(net, part, into=V) ** 2 * dx)
    pause_annotation()
    assert taylor_test(ReducedFunctional(J, Control(w)), w, direction) > 1.95


@pytest.mark.parametrize(
    "how",
    ["dropout", "functional dropout", "random slope", "batch normalisation", "counting buffer"],
)
def test_modules_whose_value_changes_from_call_to_call_are_refused(V, how):
    net, f = Random(how), Function(V).assign(1.0)
    message = r"the module Random draws random numbers or changes its buffers.*net\.eval\(\)"
    with pytest.raises(ValueError, match=message):
        femnn.apply(net, f, into=V)
    if how in ("dropout", "batch normalisation"):
        net.eval()
        femnn.apply(net, f, into=V)


def test_a_module_that_is_put_into_training_mode_later_is_refused(V):
    net, f = nn.Sequential(Cube(), nn.Dropout(0.5)).eval(), Function(V).assign(1.0)
    continue_annotation()
    J = femnn.assemble(femnn.apply(net, f, into=V) * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(f))
    net.train()
    with pytest.raises(ValueError, match="draws random numbers"):
        Jhat(f)


def test_inputs_and_outputs_of_other_kinds_are_refused(V):
    net, f, W = Cube(), Function(V), V * V
    vector = Function(VectorFunctionSpace(V.mesh(), "CG", 1), name="flow")
    for message, arguments, into in [
        ("an input is a float, wanted a Function, a Constant, values at stations", [1.0], V),
        ("the input w is in a mixed space.*a Function for each part", [Function(W, name="w")], V),
        (r"the input view\[0\]\(flow\) is a component of a vector field", [vector.sub(0)], V),
        ("the output is in a mixed space", [f], W),
        ("the output is a component of a vector field", [f], vector.function_space().sub(0)),
        ("into is a float, wanted a function space, a Constant or the type", [f], 1.0),
        ("into is a Function, wanted a function space, a Constant or the type", [f], f),
        ("into is a FiredrakeDualSpace, wanted a function space", [f], V.dual()),
    ]:
        with pytest.raises(TypeError, match=message):
            femnn.apply(net, *arguments, into=into)
    with pytest.raises(TypeError, match=r"got a builtin_function.*, wanted a torch\.nn\.Module"):
        femnn.apply(torch.sin, f, into=V)


def test_results_of_other_kinds_are_refused(V):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    f = Function(V)
    with pytest.raises(TypeError, match="Pair returned a tuple, wanted one tensor"):
        femnn.apply(Pair(), f, into=V)
    with pytest.raises(ValueError, match=r"returned shape \(\), wanted \(16,\), the rank-local"):
        femnn.apply(Sum(), f, into=V)
    with pytest.raises(ValueError, match=r"returned shape \(\), wanted \(2,\), the Constant's"):
        femnn.apply(Sum(), f, into=Constant([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"returned shape \(16,\), wanted \(\), a number's"):
        femnn.apply(Cube(), f, into=float)


@pytest.mark.parallel([2, 3])
def test_a_number_that_differs_between_ranks_is_refused():
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    f = Function(V).interpolate(SpatialCoordinate(V.mesh())[0])
    for into in (Constant(0.0), FunctionSpace(V.mesh(), "R", 0)):
        net = Sum(() if isinstance(into, Constant) else (1,))
        with pytest.raises(RuntimeError, match="returned values that differ between ranks, wanted"):
            femnn.apply(net, f, into=into)
    total = femnn.apply(Cube(), Constant(femnn.assemble(f**2 * dx)), into=Constant(0.0))
    assert len(set(COMM_WORLD.allgather(float(total)))) == 1


@pytest.mark.parallel([2, 3])
@pytest.mark.parametrize("where", ["forward", "shape", "backward"])
def test_what_a_module_raises_on_one_rank_is_raised_on_all(where):
    last = COMM_WORLD.size - 1
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    f, net = Function(V).assign(1.0), Raises(last)
    continue_annotation()
    J = femnn.assemble(femnn.apply(net, f, into=V) ** 2 * dx)
    pause_annotation()
    Jhat = ReducedFunctional(J, Control(f))
    mine = (ValueError, "returned shape") if where == "shape" else (KeyError, "mine")
    kind, message = mine if COMM_WORLD.rank == last else (RuntimeError, "error on another rank")
    net.where = where
    if where != "backward":
        with pytest.raises(kind, match=message):
            femnn.apply(net, f, into=V)
        with pytest.raises(kind, match=message):
            Jhat(f)
    else:
        Jhat(f)
        with pytest.raises(kind, match=message):
            Jhat.derivative()
        with pytest.raises(kind, match=message):
            Jhat.tlm(f)
    net.where = None
    assert Jhat(f) == pytest.approx(J, rel=1e-12)


@pytest.mark.parallel([2, 3])
def test_training_a_network_that_makes_numbers_only():
    """Its own communicator is one rank's, the model's is not."""
    V = FunctionSpace(UnitSquareMesh(4, 4), "CG", 1)
    u, v, net, last = Function(V), TestFunction(V), Cube(), COMM_WORLD.size - 1
    continue_annotation()
    h = femnn.apply(net, Constant(0.5), into=Constant(0.0))
    femnn.solve(inner(grad(u), grad(v)) * dx - h * v * dx == 0, u, DirichletBC(V, 0, 1))
    J = femnn.assemble((u - 1) ** 2 * dx)
    pause_annotation()
    weights = femnn.Weights.of(net)
    Jhat = ReducedFunctional(J, Control(weights))

    def callback(step, w):
        return step.iteration == 1 and COMM_WORLD.rank == last

    assert femnn.fit(Jhat, callback=callback, progress=False).reason == "callback"
    layer = femnn.PDELayer(Jhat)
    with torch.no_grad():
        net.factor.add_(COMM_WORLD.rank)
    with pytest.raises(RuntimeError, match="1 weights of Cube differ between ranks"):
        femnn.fit(Jhat, progress=False)
    with pytest.raises(RuntimeError, match="weights or Constants differ between ranks"):
        layer()


def test_a_zero_with_a_sign_does_not_end_what_the_tape_follows():
    """A field with a negative zero, in two solves: both follow the network that made it."""
    mesh = UnitIntervalMesh(2)
    V = FunctionSpace(mesh, "P", 1)
    u, v, source = TrialFunction(V), TestFunction(V), Function(V)
    solution, factor = Function(V), Constant(1.0)

    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.tensor([-1.0], dtype=DOUBLE))

        def forward(self):
            return self.p * torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE)

    net = Signed()
    problem = femnn.NeuralVariationalProblem.linear(u * v * dx, factor * source * v * dx, solution)
    solver = femnn.NeuralVariationalSolver(problem)
    continue_annotation()
    source.assign(femnn.apply(net, into=V))
    J = 0.0
    for value in (1.0, 2.0):
        factor.assign(value)
        solver.solve()
        J += femnn.assemble(solution * dx)
    pause_annotation()
    assert np.signbit(net().detach().numpy()[0])
    weights = femnn.Weights.of(net)
    Jhat = ReducedFunctional(J, Control(weights))
    assert Jhat(weights.like(np.array([-3.0]))) == pytest.approx(3 * J, rel=1e-12)
