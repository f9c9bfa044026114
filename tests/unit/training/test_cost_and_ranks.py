"""What a training costs, and that it is the same on several ranks."""

import gc
import os
import signal
import tracemalloc

import numpy as np
import pytest
import torch
from firedrake import *
from firedrake.adjoint import *
from mpi4py import MPI

import femnn
from tests.unit.training.support import (
    Fragile,
    poisson,
    rate,
)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_and_kernels_do_not_grow(monkeypatch):
    from pyop2 import global_kernel

    net = femnn.MLP(1, 6, 1, output="softplus", seed=1)
    Jhat, coefficients = poisson(net, n=20, explicit=femnn.MLP(2, 4, 1, output="exp", seed=2))
    weights = [c.weights for c in coefficients]
    rng, loads, load = np.random.default_rng(0), [], global_kernel.load
    monkeypatch.setattr(global_kernel, "load", lambda *a, **k: loads.append(a) or load(*a, **k))

    def evaluate(times):
        for _ in range(times):
            point = [w.like(w.vector + 0.05 * rng.standard_normal(len(w))) for w in weights]
            Jhat(point)
            Jhat.derivative()
        Jhat(weights)  # what is kept for the last weights only is of the same size each time
        Jhat.derivative()
        gc.collect()

    evaluate(10)
    blocks = len(get_working_tape().get_blocks())
    loads.clear()
    tracemalloc.start()
    try:
        evaluate(15)
        before = tracemalloc.get_traced_memory()[0]
        evaluate(20)
        growth = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # one field of this mesh kept each time would be 70 kB
    assert growth < 35e3, f"{growth} bytes of Python objects are left by 20 evaluations"
    before = resident()
    evaluate(40)
    # one field kept each time would be 2.8 MB in all, one matrix 140 MB, its factors more
    assert resident() - before < 2e6
    assert loads == []
    assert len(get_working_tape().get_blocks()) == blocks
    assemble(coefficients[0].operands[0] ** 11 * dx)
    assert loads, "the test does not see kernels that are loaded"


# On several ranks


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("method", ["L-BFGS", "Adam"])
def test_training_does_not_depend_on_ranks(method):
    comm = MPI.COMM_WORLD
    options = {"maxiter": 8, "progress": False, **rate(method, 0.02)}
    Jhat, kappa = poisson(comm=comm)
    result = femnn.fit(Jhat, method, **options)
    assert len(set(comm.allgather(result.weights.tobytes()))) == 1
    assert len(set(comm.allgather(kappa.weights.vector.tobytes()))) == 1
    assert len(set(comm.allgather([s.loss for s in result.history].__repr__()))) == 1
    alone = femnn.fit(poisson(comm=MPI.COMM_SELF)[0], method, **options)
    losses, expected = ([s.loss for s in r.history] for r in (result, alone))
    assert np.allclose(losses, expected, rtol=1e-8, atol=0)


@pytest.mark.parallel([1, 2, 3])
def test_rejection_callback_and_interrupt_on_several_ranks():
    comm = MPI.COMM_WORLD
    last = comm.size - 1
    Jhat, _ = poisson(Fragile(0.5), comm=comm)
    rejecting = femnn.fit(Jhat, maxiter=8, progress=False)
    assert rejecting.rejected > 0
    Jhat, _ = poisson(comm=comm)
    stopped = femnn.fit(
        Jhat, callback=lambda step, w: comm.rank == last and step.iteration == 2, progress=False
    )

    def interrupt(step, weights):
        if step.iteration == 3 and comm.rank == last:
            os.kill(os.getpid(), signal.SIGINT)

    interrupted = femnn.fit(Jhat, callback=interrupt, progress=False)
    reasons = (rejecting.rejected, stopped.reason, stopped.iterations, interrupted.reason)
    assert reasons[1:] == ("callback", 2, "interrupted")
    assert len(set(comm.allgather(reasons))) == 1


@pytest.mark.parallel([2, 3])
def test_a_callback_that_raises_on_one_rank_raises_on_all():
    comm = MPI.COMM_WORLD
    last = comm.size - 1
    Jhat, kappa = poisson(comm=comm)
    start = kappa.weights.vector

    def callback(step, weights):
        if step.iteration == 2 and comm.rank == last:
            raise KeyError("mine")

    kind, message = (KeyError, "mine") if comm.rank == last else (RuntimeError, "another rank")
    with pytest.raises(kind, match=message):
        femnn.fit(Jhat, callback=callback, progress=False)
    kept = kappa.weights.vector
    assert not np.array_equal(kept, start)
    assert len(set(comm.allgather(kept.tobytes()))) == 1
    femnn.fit(Jhat, maxiter=1, progress=False)


@pytest.mark.parallel([2, 3])
def test_weights_that_differ_between_ranks_are_refused():
    comm = MPI.COMM_WORLD
    Jhat, kappa = poisson(comm=comm)
    with torch.no_grad():
        next(kappa.net.parameters()).add_(comm.rank)
    mine = kappa.weights.vector
    with pytest.raises(RuntimeError, match="the 19 weights of MLP differ between ranks"):
        femnn.fit(Jhat, progress=False)
    assert np.array_equal(kappa.weights.vector, mine)


@pytest.mark.parallel([1, 2, 3])
def test_progress_is_shown_on_rank_zero_only(capfd):
    Jhat, _ = poisson(comm=MPI.COMM_WORLD)
    capfd.readouterr()
    femnn.fit(Jhat, maxiter=2)
    out, err = capfd.readouterr()
    assert out == ""
    if MPI.COMM_WORLD.rank == 0:
        assert "fit" in err
        assert "loss" in err
        assert "|gradient|" in err
    else:
        assert err == ""
    femnn.fit(Jhat, maxiter=2, progress=False)
    assert capfd.readouterr() == ("", "")
