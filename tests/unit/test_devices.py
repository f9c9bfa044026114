"""On which device networks are evaluated.  The machine need not have an accelerator."""

import time

import firedrake as fd
import numpy as np
import pytest
import torch

import femnn
from femnn.evaluation import devices as devices_module
from femnn.evaluation import evaluator as evaluator_module
from femnn.evaluation.devices import FEWEST, devices, local_rank, named, settle
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.interpolated import InterpolatedEvaluator

NO_CUDA = not torch.cuda.is_available()
X = np.random.default_rng(0).uniform(-1, 1, (FEWEST, 2))


def test_devices_by_name():
    assert named("cpu") == torch.device("cpu") == devices()[0]
    net = femnn.MLP(2, 4, 1)
    parameters = list(net.parameters())
    PointEvaluator(net, 2, device="cpu")
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:zero", "meta", "hpu"])
def test_devices_that_are_not_there(name):
    match = rf"device='{name}': PyTorch cannot use it here \(.*\)\. There is cpu.*'auto' takes"
    with pytest.raises(ValueError, match=match):
        PointEvaluator(femnn.MLP(2, 4, 1), 2, device=name)
    with pytest.raises(TypeError, match=r"device=3: wanted a torch\.device, its name such as"):
        InterpolatedEvaluator(femnn.MLP(1, 4, 1), 1, device=3)


def test_ranks_of_a_node_share_its_devices(monkeypatch):
    """Each takes the one that its number on the node tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in devices_module._LOCAL_RANK:
        monkeypatch.delenv(name, raising=False)
    assert devices() == [torch.device("cpu"), torch.device("cuda", 0)]
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert local_rank() == 3
    assert devices()[1] == torch.device("cuda", 1)


class Slow(PointEvaluator):
    """As on a device that takes long for each sweep."""

    def value_and_derivative(self, x, weights=None):
        time.sleep(0.02)
        return super().value_and_derivative(x, weights)


@pytest.mark.parametrize("slow", [0, 1])
def test_the_fastest_device_is_taken(slow, monkeypatch):
    """Each is asked in turn, where the network is then; it ends where sweeps take least."""
    net, moves, among = femnn.MLP(2, 4, 1), [], [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(net, "to", lambda device: moves.append(str(device)))

    def make():
        kind = Slow if moves[-1] == str(among[slow]) else PointEvaluator
        return kind(net, 2)

    seconds = settle(net, make, X, None, among)
    names = [str(device) for device in among]
    assert list(seconds) == names
    assert moves == [*names, names[1 - slow]]
    assert seconds[names[slow]] > 0.02 > seconds[names[1 - slow]]


@pytest.mark.parametrize("kind", [PointEvaluator, InterpolatedEvaluator])
def test_the_device_is_chosen_once_at_the_first_sweep_that_tells(kind, monkeypatch):
    calls = []

    def settled(net, make, x, weights, among):
        calls.append((type(make()), len(x)))
        return {str(device): 1.0 for device in among}

    monkeypatch.setattr(evaluator_module, "settle", settled)
    monkeypatch.setattr(evaluator_module, "devices", lambda: [torch.device("cpu")] * 2)
    evaluator = kind(femnn.MLP(2, 4, 1), 2, device="auto")
    evaluator.value(X[:10])
    assert calls == []
    evaluator.value(X)
    evaluator.value_and_derivative(X)
    assert calls == [(kind, FEWEST)]
    assert evaluator.seconds == {"cpu": 1.0}
    assert sum(evaluator.sweeps.values()) == 3


@pytest.mark.parallel([1, 2])
def test_a_coefficient_on_a_device_that_is_asked_for():
    """Values as without; a name that is wrong is an error on all ranks."""
    mesh = fd.UnitSquareMesh(12, 12)
    x, y = fd.SpatialCoordinate(mesh)
    net = femnn.MLP(2, 4, 1, seed=1)
    values = [
        femnn.NeuralCoefficient(net, x, y, device=device).update().dat.data_ro.copy()
        for device in (None, "cpu", "auto")
    ]
    assert np.array_equal(values[0], values[1])
    np.testing.assert_allclose(values[2], values[0], 1e-12 if NO_CUDA else 1e-10)
    with pytest.raises(ValueError, match=r"device='gpu': PyTorch cannot use it here"):
        femnn.NeuralCoefficient(net, x, y, device="gpu")


@pytest.mark.skipif(NO_CUDA, reason="no CUDA device")
def test_auto_measures_where_there_is_an_accelerator():
    net = femnn.MLP(2, 16, 1, seed=1)
    expected = PointEvaluator(femnn.MLP(2, 16, 1, seed=1), 2).value(X)
    evaluator = PointEvaluator(net, 2, device="auto")
    np.testing.assert_allclose(evaluator.value(X), expected, rtol=1e-10)
    assert list(evaluator.seconds) == [str(device) for device in devices()]
    best = min(evaluator.seconds, key=evaluator.seconds.get)
    assert str(next(net.parameters()).device) == best
