"""Values, derivatives and products with Jacobians at points; torch and numpy only."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.func import functional_call, jvp

from femnn.evaluation import threads
from femnn.evaluation.batches import batch_size
from femnn.evaluation.evaluator import PointEvaluator, total_inputs
from femnn.evaluation.jacobian import weight_jacobian
from femnn.evaluation.parameters import ParameterVector
from femnn.networks.mlp import MLP, Gradient, Jacobian

RNG = np.random.default_rng(0)


class Law(torch.nn.Module):
    """Nothing to train."""

    def forward(self, x):
        return 1 + (x**2).sum(1, keepdim=True)


class Unrelated(torch.nn.Module):
    """Trainable, but not a function of its input."""

    def __init__(self):
        super().__init__()
        self.c = torch.nn.Parameter(torch.tensor([2.0, 3.0], dtype=torch.float64))

    def forward(self, x):
        return (self.c**2).expand(len(x), 2)


class Brittle(torch.nn.Module):
    """Fails for large inputs."""

    def __init__(self):
        super().__init__()
        self.net = MLP(2, 4, 1)

    def forward(self, x):
        if (x > 100).any():
            raise ArithmeticError("too large")
        return self.net(x)


class Fails(torch.nn.Module):
    """Returns what it is told to."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def frozen_first_layer():
    net = MLP(2, 5, 2, seed=3)
    first = next(m for m in net.modules() if isinstance(m, torch.nn.Linear))
    first.requires_grad_(False)
    return net


MODULES = {
    "mlp": MLP(2, 6, 5, 3, seed=1),
    "scaled": MLP(2, 6, 1, output="exp", input_range=(-2, 2), seed=1),
    "frozen": frozen_first_layer(),
    "gradient": Gradient(MLP(2, 6, 1, seed=2)),
    "unrelated": Unrelated(),
    "law": Law(),
    "gradient of law": Gradient(Law()),
    "gradient of unrelated": Gradient(torch.nn.Sequential(Unrelated(), MLP(2, 3, 1))),
    "linear": torch.nn.Linear(2, 3, bias=False, dtype=torch.float64),
}


def jacobians(net, x, vector=None):
    """Values and both Jacobians by torch's own autograd, one point at a time."""
    parameters = {k: p for k, p in net.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in parameters.values()]
    if vector is None:
        own = [p.detach().reshape(-1) for p in parameters.values()]
        vector = torch.cat(own) if own else torch.empty(0)

    def at(w, point):
        pieces = torch.split(w, sizes) if sizes else []
        named = {
            k: piece.reshape(p.shape)
            for (k, p), piece in zip(parameters.items(), pieces, strict=True)
        }
        return functional_call(net, named, (point[None],))[0]

    w, points = torch.as_tensor(vector, dtype=torch.float64), torch.from_numpy(x)
    jacobian = torch.autograd.functional.jacobian
    values = np.stack([at(w, p).detach().numpy() for p in points])
    slopes = np.stack([jacobian(lambda q: at(w, q), p).numpy() for p in points])
    if not sizes:
        return values, slopes, np.zeros((*values.shape, 0))
    weights = np.stack([jacobian(lambda v, q=p: at(v, q), w).numpy() for p in points])
    return values, slopes, weights


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["own weights", "other weights"])
def test_everything_equals_plain_autograd(name, elsewhere):
    net = MODULES[name]
    evaluator = PointEvaluator(net, 2, chunk_size=4)
    x = RNG.uniform(-1, 1, (7, 2))
    weights = evaluator.parameters.read()
    if elsewhere:
        weights = weights + 0.3 * RNG.standard_normal(len(weights))
    given = weights if elsewhere else None
    values, slopes, in_weights = jacobians(net, x, weights)
    assert evaluator.n_outputs == values.shape[1]
    assert np.allclose(evaluator.value(x, given), values, rtol=1e-13, atol=1e-14)
    with_slope, slope = evaluator.value_and_derivative(x, given)
    assert np.allclose(with_slope, values, rtol=1e-13, atol=1e-14)
    assert np.allclose(slope, slopes, rtol=1e-12, atol=1e-13)
    cotangent = RNG.standard_normal(values.shape)
    product = evaluator.weight_vjp(x, cotangent, given)
    assert product.shape == (len(evaluator.parameters),)
    expected = np.einsum("pj,pjw->w", cotangent, in_weights)
    assert np.allclose(product, expected, rtol=1e-12, atol=1e-12)


def test_dot_test_with_forward_mode():
    net = MLP(3, 20, 20, 2, seed=5)
    evaluator = PointEvaluator(net, 3, chunk_size=7)
    x, w = RNG.uniform(-1, 1, (50, 3)), RNG.standard_normal(len(evaluator.parameters))
    cotangent, direction = RNG.standard_normal((50, 2)), RNG.standard_normal(len(w))
    names = [k for k, _ in net.named_parameters()]

    def named(vector):
        return dict(zip(names, evaluator.parameters._split(vector), strict=True))

    points = torch.from_numpy(x)
    _, push = jvp(lambda p: functional_call(net, p, (points,)), (named(w),), (named(direction),))
    left = evaluator.weight_vjp(x, cotangent, w) @ direction
    assert left == pytest.approx(np.sum(cotangent * push.numpy()), rel=1e-12)


def test_chunk_size_does_not_matter():
    net, x = MLP(2, 16, 2, seed=1), RNG.uniform(-1, 1, (1001, 2))
    cotangent = RNG.standard_normal((1001, 2))
    whole = PointEvaluator(net, 2, chunk_size=10**6)
    value, slope = whole.value_and_derivative(x)
    product = whole.weight_vjp(x, cotangent)
    for size in (1, 7, 1000, 1001, None):
        part = PointEvaluator(net, 2, chunk_size=size)
        assert np.allclose(part.value(x), value, rtol=1e-13, atol=1e-14)
        values, slopes = part.value_and_derivative(x)
        assert np.allclose(values, value, rtol=1e-13, atol=1e-14)
        assert np.allclose(slopes, slope, rtol=1e-12, atol=1e-14)
        assert np.allclose(part.weight_vjp(x, cotangent), product, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [0, -1, -4096])
def test_chunk_size_must_be_positive(size):
    with pytest.raises(ValueError, match="chunk_size"):
        PointEvaluator(MLP(2, 4, 1), 2, chunk_size=size)


def test_no_points():
    evaluator = PointEvaluator(MLP(2, 4, 3), 2)
    nothing = np.empty((0, 2))
    assert evaluator.value(nothing).shape == (0, 3)
    values, slope = evaluator.value_and_derivative(nothing)
    assert values.shape == (0, 3)
    assert slope.shape == (0, 3, 2)
    product = evaluator.weight_vjp(nothing, np.empty((0, 3)))
    assert product.shape == (len(evaluator.parameters),)
    assert not product.any()


def test_sweeps_are_counted():
    evaluator = PointEvaluator(MLP(2, 4, 1), 2, chunk_size=3)
    x = RNG.uniform(-1, 1, (10, 2))
    assert evaluator.sweeps == {"value": 0, "derivative": 0, "vjp": 0, "variation": 0}
    evaluator.value(x)
    evaluator.value_and_derivative(x)
    evaluator.value_and_derivative(x)
    evaluator.weight_vjp(x, np.ones((10, 1)))
    assert evaluator.sweeps == {"value": 1, "derivative": 2, "vjp": 1, "variation": 0}


def test_read_only_and_strided_points():
    evaluator = PointEvaluator(MLP(2, 4, 1), 2)
    x = RNG.uniform(-1, 1, (20, 4))
    expected = evaluator.value(np.ascontiguousarray(x[::2, ::2]))
    locked = x.copy()
    locked.flags.writeable = False
    assert np.array_equal(evaluator.value(locked[::2, ::2]), expected)
    assert np.array_equal(x, locked)


def test_single_precision_module():
    single = MLP(2, 8, 1, seed=1, dtype=torch.float32)
    double = MLP(2, 8, 1, seed=1, dtype=torch.float64)
    a, b = PointEvaluator(single, 2), PointEvaluator(double, 2)
    b.parameters.write(a.parameters.read())
    x, cotangent = RNG.uniform(-1, 1, (30, 2)), RNG.standard_normal((30, 1))
    results = [*a.value_and_derivative(x), a.weight_vjp(x, cotangent), a.value(x)]
    expected = [*b.value_and_derivative(x), b.weight_vjp(x, cotangent), b.value(x)]
    for got, want in zip(results, expected, strict=True):
        assert got.dtype == np.float64
        assert np.allclose(got, want, rtol=1e-4, atol=1e-5)
        assert not np.array_equal(got, want), "the module was evaluated in double precision"
    assert single(torch.from_numpy(x).float()).dtype == torch.float32


def test_only_trainable_parameters_are_in_the_vector():
    net = frozen_first_layer()
    vector = ParameterVector(net.parameters())
    assert len(vector) == 5 * 2 + 2
    frozen = [p.clone() for p in net.parameters() if not p.requires_grad]
    vector.write(np.arange(12.0))
    assert np.array_equal(vector.read(), np.arange(12.0))
    now = [p for p in net.parameters() if not p.requires_grad]
    assert len(frozen) == 2
    assert all(torch.equal(a, b) for a, b in zip(frozen, now, strict=True))
    evaluator = PointEvaluator(net, 2)
    evaluator.weight_vjp(np.zeros((1, 2)), np.ones((1, 2)), np.zeros(12))
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_vector_without_parameters():
    vector = ParameterVector(Law().parameters())
    assert len(vector) == 0
    assert vector.read().shape == (0,)
    vector.write(np.zeros(0))


def everything_of(net):
    return [
        (id(p), p.data_ptr(), p.detach().numpy().tobytes(), p.requires_grad, p.grad)
        for p in net.parameters()
    ]


def test_the_module_is_untouched_by_evaluations():
    net = MLP(2, 5, 1, seed=1)
    net(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    evaluator = PointEvaluator(net, 2)
    before = everything_of(net)
    grads = [p.grad.clone() for p in net.parameters()]
    x, w = RNG.uniform(-1, 1, (5, 2)), RNG.standard_normal(len(evaluator.parameters))
    for given in (w, None):
        evaluator.value(x, given)
        evaluator.value_and_derivative(x, given)
        evaluator.weight_vjp(x, np.ones((5, 1)), given)
    after = everything_of(net)
    for a, b in zip(before, after, strict=True):
        assert a[:4] == b[:4]
        assert a[4] is b[4]
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))


def test_the_module_is_untouched_when_it_raises():
    net = Brittle()
    evaluator = PointEvaluator(net, 2)
    before = everything_of(net)
    x, w = np.array([[0.0, 0.0], [101.0, 0.0]]), np.zeros(len(evaluator.parameters))
    with pytest.raises(ArithmeticError, match="too large"):
        evaluator.value(x, w)
    with pytest.raises(ArithmeticError, match="too large"):
        evaluator.value_and_derivative(x, w)
    with pytest.raises(ArithmeticError, match="too large"):
        evaluator.weight_vjp(x, np.ones((2, 1)), w)
    assert everything_of(net) == before


def test_a_parameter_frozen_later_stays_frozen():
    net = MLP(2, 5, 1, seed=1)
    evaluator = PointEvaluator(net, 2)
    next(net.parameters()).requires_grad_(False)
    evaluator.value(np.zeros((1, 2)))
    evaluator.weight_vjp(np.zeros((1, 2)), np.ones((1, 1)))
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]


def test_weights_of_the_wrong_length_are_refused_and_change_nothing():
    net = MLP(2, 5, 1)
    evaluator = PointEvaluator(net, 2)
    before = everything_of(net)
    with pytest.raises(ValueError, match=r"shape \(3,\) for a network with 21 trainable weights"):
        evaluator.value(np.zeros((1, 2)), np.zeros(3))
    assert everything_of(net) == before


def test_a_read_only_vector_is_split_once_and_a_writable_one_each_time():
    evaluator = PointEvaluator(MLP(2, 5, 1), 2)
    x, w = RNG.uniform(-1, 1, (3, 2)), RNG.standard_normal(21)
    first = evaluator.value(x, w)
    w *= 2
    assert not np.allclose(evaluator.value(x, w), first)
    w.flags.writeable = False
    doubled = evaluator.value(x, w)
    cached = evaluator.parameters._cached_split(w)
    assert evaluator.parameters._cached_split(w) is cached
    assert np.array_equal(evaluator.value(x, w), doubled)


def dropout():
    return torch.nn.Sequential(
        torch.nn.Linear(2, 64, dtype=torch.float64),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(64, 1, dtype=torch.float64),
    )


def batch_norm():
    return torch.nn.Sequential(
        torch.nn.Linear(2, 4, dtype=torch.float64),
        torch.nn.BatchNorm1d(4, dtype=torch.float64),
        torch.nn.Linear(4, 1, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(3, 4, 1), r"the network MLP does not take the 2 inputs.*It says: .*shapes"),
        (lambda: Fails(lambda x: x[:, 5:6][0, 0]), "does not take the 2 inputs"),
        (lambda: Fails(lambda x: x[:, 0]), r"returned \(3,\) for 3 points: .*\(points, outputs\)"),
        (lambda: Fails(lambda x: x[None]), r"returned \(1, 3, 2\) for 3 points"),
        (lambda: Fails(lambda x: x.sum(0, keepdim=True)), r"returned \(1, 2\) for 3 points"),
        (lambda: Fails(lambda x: (x, x)), "returned tuple for 3 points"),
        (lambda: Fails(lambda x: x - x.mean(0)), r"batch: .*evaluation mode .net.eval"),
        (dropout, "evaluation mode"),
        (batch_norm, "evaluation mode"),
        (lambda: Fails(lambda x: torch.nn.functional.dropout(x)), "another value at another call"),
        (lambda: torch.nn.RReLU(), "another value at another call"),
        (lambda: Fails(lambda x: (x - 1).log() - x.mean()), "when other points are in the batch"),
        (lambda: Fails(lambda x: torch.complex(x, x)), r"numbers of torch.complex128.*two outputs"),
        (lambda: Fails(lambda x: x > 0), "numbers of torch.bool"),
        (lambda: torch.nn.LazyLinear(1), "lazy layers.*pass a batch of points"),
        (lambda: torch.nn.Linear(2, 1, device="meta"), r"meta device.*net.to_empty"),
    ],
    ids=[
        *("inputs", "index", "1d", "3d", "summed", "tuple", "mean", "dropout", "batch norm"),
        *("function", "random", "not a number", "complex", "boolean", "lazy", "meta"),
    ],
)
def test_unfit_modules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        PointEvaluator(make(), 2)


@pytest.mark.parametrize("make", [dropout, batch_norm])
def test_evaluation_mode_is_accepted(make):
    net = make().eval()
    evaluator = PointEvaluator(net, 2)
    x = RNG.uniform(-1, 1, (9, 2))
    with torch.no_grad():
        assert np.allclose(evaluator.value(x), net(torch.from_numpy(x)).numpy())


class Scaled(torch.nn.Module):
    """Has what is not a parameter: an attribute, a tensor that torch does not know of, a buffer."""

    def __init__(self):
        super().__init__()
        self.net = MLP(1, 4, 1, seed=2)
        self.factor, self.shift = 2.0, [torch.tensor(0.5)]
        self.register_buffer("power", torch.tensor(1.0, dtype=torch.float64))
        self.net.layers[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.factor * self.net(x) ** self.power + self.shift[0]


CHANGES = {
    "attribute": lambda net: setattr(net, "factor", 3.0),
    "hidden tensor": lambda net: net.shift[0].mul_(2.0),
    "buffer": lambda net: net.power.data.mul_(2.0),
    "frozen parameter": lambda net: net.net.layers[0].bias.data.add_(1.0),
    "forward": lambda net: setattr(net, "forward", lambda x: net.net(x)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_a_weight_changes_the_version(change):
    net = Scaled()
    evaluator = PointEvaluator(net, 1)
    x = RNG.uniform(250, 300, (50, 1))
    before = evaluator.version()
    evaluator.value(x)
    w = evaluator.parameters.read()
    evaluator.value_and_derivative(x, 2 * w)
    evaluator.parameters.write(3 * w)
    assert evaluator.version() == before, "other weights are not another module"
    change(net)
    assert evaluator.version() > before
    assert evaluator.version() == evaluator.version()


def test_a_change_that_shows_only_where_the_points_are_is_seen():
    net = Scaled()
    net.limit = 260.0
    net.forward = lambda x: net.net(x) * (x > net.limit)
    evaluator = PointEvaluator(net, 1)
    evaluator.value(RNG.uniform(250, 300, (50, 1)))
    before = evaluator.version()
    net.limit = 400.0
    assert evaluator.version() > before


def test_parameters_that_are_frozen_later_are_refused():
    net = MLP(1, 4, 1)
    evaluator = PointEvaluator(net, 1)
    net.layers[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"were frozen after.*make the coefficient anew"):
        evaluator.version()


def test_another_dtype_later():
    net = MLP(1, 4, 1, seed=3)
    evaluator = PointEvaluator(net, 1)
    x = RNG.uniform(-1, 1, (20, 1))
    w = evaluator.parameters.read()
    w.flags.writeable = False
    exact = evaluator.value(x, w)
    before = evaluator.version()
    net.float()
    rounded = evaluator.value(x, w)
    assert evaluator.version() == before
    assert 0 < np.abs(rounded - exact).max() < 1e-5
    net.double()
    assert np.array_equal(evaluator.value(x, w), exact)


@pytest.mark.parametrize(("width", "wanted"), [(8, 1), (400, 2)])
def test_threads_are_shared_by_large_networks_only(width, wanted, monkeypatch):
    monkeypatch.setattr(threads, "cores_of_rank", lambda: 2)
    seen = []
    net = torch.nn.Sequential(MLP(1, width, width, 1), Fails(lambda x: _noted(seen, x)))
    own = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        evaluator = PointEvaluator(net, 1)
        seen.clear()
        evaluator.value_and_derivative(np.zeros((5, 1)))
        assert set(seen) == {wanted}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(own)


def _noted(seen, x):
    seen.append(torch.get_num_threads())
    return x


def test_cores_are_shared_by_the_ranks_of_a_node(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 16)
    for name in threads._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    assert threads.cores_of_rank() == 16
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "6")
    assert threads.cores_of_rank() == 2
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 64)
    assert threads.cores_of_rank() == 16, "the launcher has bound this rank to cores of its own"


def test_ranks_of_a_node_as_launchers_say(monkeypatch):
    for name in threads._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    assert threads.local_ranks() == 1
    for said, wanted in (("4", 4), ("2(x3)", 2), ("8(x2),3", 8), ("0", 1), ("many", 1)):
        monkeypatch.setenv("SLURM_TASKS_PER_NODE", said)
        assert threads.local_ranks() == wanted


def test_a_batch_suits_the_device(monkeypatch):
    """An accelerator takes what its free memory takes, divided among its ranks."""
    small, large = MLP(2, 4, 1), MLP(2, 2000, 2000, 1)
    assert batch_size(small, torch.device("cpu")) == 4096
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 16 * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    device = torch.device("cuda", 0)
    assert batch_size(small, device) == 2**20
    alone = batch_size(large, device)
    assert 8 * 4001 * alone < 2**30
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    assert batch_size(large, device) == pytest.approx(max(alone / 2, 4096), abs=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert batch_size(large, device) == alone


@pytest.mark.parametrize("thing", [lambda x: x, "net", None, np.ones((2, 1))])
def test_only_modules_are_taken(thing):
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, not .*: wrap a function"):
        PointEvaluator(thing, 2)


def test_number_of_inputs_of_operands():
    assert total_inputs([(), (2,), (2, 3)]) == 9
    assert total_inputs([]) == 0


def test_only_torch_and_numpy_are_needed():
    code = """
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"firedrake", "pyadjoint", "ufl", "mpi4py"}:
                    raise ImportError(f"{name} is blocked")

        sys.meta_path.insert(0, Block())
        import numpy as np
        import femnn
        from femnn.evaluation.evaluator import PointEvaluator
        from femnn.evaluation.parameters import ParameterVector

        try:
            import firedrake
        except ImportError:
            pass
        else:
            raise AssertionError("firedrake was not blocked")

        net = femnn.Gradient(femnn.MLP(2, 5, 1, output="softplus"))
        evaluator = PointEvaluator(net, 2)
        x = np.linspace(0, 1, 8).reshape(4, 2)
        w = np.ones(len(ParameterVector(net.parameters())))
        value, slope = evaluator.value_and_derivative(x, w)
        assert value.shape == (4, 2) and slope.shape == (4, 2, 2)
        assert np.array_equal(value, evaluator.value(x, w))
        assert np.isfinite(evaluator.weight_vjp(x, np.ones((4, 2)))).all()
        assert not {"firedrake", "pyadjoint", "ufl", "mpi4py"} & set(sys.modules)
        print("works")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "works"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_module_on_a_gpu(dtype):
    host, device = MLP(2, 16, 3, seed=1, dtype=dtype), MLP(2, 16, 3, seed=1, dtype=dtype).cuda()
    a, b = PointEvaluator(host, 2, 100), PointEvaluator(device, 2, 64)
    x, cotangent = RNG.uniform(-1, 1, (300, 2)), RNG.standard_normal((300, 3))
    w = RNG.standard_normal(len(a.parameters))
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3
    for given in (None, w):
        results = [*b.value_and_derivative(x, given), b.weight_vjp(x, cotangent, given)]
        expected = [*a.value_and_derivative(x, given), a.weight_vjp(x, cotangent, given)]
        for got, want in zip(results, expected, strict=True):
            assert isinstance(got, np.ndarray)
            assert np.allclose(got, want, rtol=tolerance, atol=tolerance)
    assert {p.device.type for p in device.parameters()} == {"cuda"}
    assert (a.moves, b.moves) == (0, 2 * (3 + 3)), "each array once, whatever the batches"


class Slope(torch.nn.Module):
    """A user's own derivative of a network, by autograd."""

    def __init__(self):
        super().__init__()
        self.net = MLP(2, 4, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


KINDS = ["plain", "gradient", "jacobian", "twice", "own slope", "unrelated", "nothing"]


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_for_all_weights(kind):
    """Each row's product with a cotangent is the vector-Jacobian product."""
    nets = {"plain": MLP(2, 4, 2), "unrelated": Unrelated(), "nothing": Law()}
    nets["gradient"], nets["jacobian"] = Gradient(MLP(2, 4, 1)), Jacobian(MLP(2, 4, 3))
    nets["twice"], nets["own slope"] = Jacobian(Gradient(MLP(2, 4, 1))), Slope()
    net = nets[kind]
    evaluator, x = PointEvaluator(net, 2), RNG.normal(size=(5, 2))
    weights = evaluator.parameters.read() + 0.1
    jacobian = weight_jacobian(evaluator, x, weights)
    one_by_one = evaluator.sweeps["variation"]
    assert one_by_one == (len(weights) if kind == "own slope" else 0)
    assert jacobian.shape == (5, evaluator.n_outputs, len(weights))
    cotangent = RNG.normal(size=(5, evaluator.n_outputs))
    expected = evaluator.weight_vjp(x, cotangent, weights)
    assert np.allclose(np.einsum("ijk,ij->k", jacobian, cotangent), expected, rtol=1e-10)
