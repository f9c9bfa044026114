"""The study of excitable tissue: its law, the scheme that data come from, what is learned."""

import json

import firedrake as fd
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import femnn
from benchmarks.published import framework, monodomain
from benchmarks.published.monodomain_methods import TorchLoop
from demos.studies.tissue import __main__ as study
from demos.studies.tissue.membrane import (
    REST,
    LearnedMembrane,
    Membrane,
    gate_rates,
    resting_gates,
)
from demos.studies.tissue.model import Observations, Protocol, Tissue
from demos.studies.tissue.training import ThroughTheTissue


def rates_of_1952(t, y, stimulus):
    """Hodgkin and Huxley's equations in their own sign: V is negative where excited."""
    V, m, h, n = -(y[0] + 75), *y[1:]
    a_m, b_m = 0.1 * (V + 25) / (np.exp((V + 25) / 10) - 1), 4 * np.exp(V / 18)
    a_h, b_h = 0.07 * np.exp(V / 20), 1 / (np.exp((V + 30) / 10) + 1)
    a_n, b_n = 0.01 * (V + 10) / (np.exp((V + 10) / 10) - 1), 0.125 * np.exp(V / 80)
    inward = 120 * m**3 * h * (V + 115) + 36 * n**4 * (V - 12) + 0.3 * (V + 10.613)
    gates = [a_m * (1 - m) - b_m * m, a_h * (1 - h) - b_h * h, a_n * (1 - n) - b_n * n]
    return [inward + stimulus(t), *gates]


def course_of_a_cell(end):
    """The stimulated cell by an adaptive method of high order: the times and (v, m, h, n)."""
    rest = [-75, *resting_gates()]
    pieces, y = [np.array([rest]).T], rest
    for begin, until, strength in ((0, 3, 0), (3, 4, 100), (4, end, 0)):
        times = np.arange(round(begin / 0.1) + 1, round(until / 0.1) + 1) * 0.1
        found = solve_ivp(
            rates_of_1952,
            (begin, until),
            y,
            method="DOP853",
            t_eval=np.minimum(times, until),
            rtol=1e-10,
            atol=1e-10,
            args=(lambda t, strength=strength: strength,),
        )
        pieces.append(found.y)
        y = found.y[:, -1]
    return np.concatenate(pieces, axis=1).T


def test_exact_law_gives_the_course_of_a_cell():
    """All nodes stimulated, so that nothing diffuses: both schemes, and their orders in time."""
    everywhere = Protocol(lambda x, y: np.full_like(x, True), begin=3.0, end=10.0)
    expected = course_of_a_cell(10.0)
    law = Membrane()
    assert expected[:, 0].max() > 20  # an action potential
    for fine, bound in ((True, 2e-3), (False, 3e-2)):
        tissue = Tissue(fd.UnitSquareMesh(2, 2), law, fine=fine)
        found = tissue.record(everywhere, 10.0)
        assert found.shape == (101, 9, 4)
        assert np.ptp(found, axis=1).max() < 1e-9
        error = np.abs(found[:, 0] - expected) / [115, 1, 1, 1]
        assert error.max() < bound


def test_law_has_no_hole_where_a_rate_is_a_limit():
    """The gates' rates are smooth where numerator and denominator vanish together."""
    u = torch.tensor([10.0, 10 + 1e-6, 25.0, 25 + 1e-6], dtype=torch.float64, requires_grad=True)
    opening, _ = gate_rates(u)
    assert opening[2, 0].item() == pytest.approx(0.1)
    assert opening[0, 2].item() == pytest.approx(1.0)
    assert torch.allclose(opening[:, ::2], opening[:, 1::2], rtol=1e-6)
    (slope,) = torch.autograd.grad(opening.sum(), u)
    assert torch.allclose(slope[::2], slope[1::2], rtol=1e-5)


def test_networks_learn_the_membrane(tmp_path):
    """A wave in a small piece of tissue; all files are written and hold what was learned."""
    sizes = ["--cells", "5", "--side", "8.33", "--end", "12", "--test-end", "10"]
    work = ["--rates", "1000", "--windows", "4", "--window", "5", "--iterations", "8"]
    numbers = study.main(["--output", str(tmp_path), *sizes, *work])
    assert json.loads((tmp_path / "results.json").read_text()) == numbers
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    tissue = numbers["trainings"]["tissue"]
    assert tissue["loss"] < tissue["initial_loss"] < 1e-5
    errors = numbers["errors"]
    for case, nodes in (("training", 30), ("test", 61)):
        assert errors[f"networks, {case}"]["activated"] == nodes
        assert errors[f"networks, {case}"]["missed"] <= 3
        assert errors[f"networks, {case}"]["v"] < 0.3
        assert errors[f"networks, {case}"]["activation"] < 0.25
        assert errors[f"true membrane, same scheme, {case}"]["v"] < 0.1
    net = femnn.load(tmp_path / "network.safetensors", into=LearnedMembrane())
    rest = torch.tensor([[REST, *resting_gates(), 0.0]], dtype=torch.float64)
    with torch.no_grad():
        assert abs(net(rest)[0, 0].item()) < 3  # mV/ms, 250 at most in the wave


def gradient(misfit, net):
    """A loss and its gradient for all weights."""
    net.zero_grad()
    loss = misfit()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters()]).numpy()


def observations(comm, begin, end):
    """Of a small piece of tissue with a stimulus at a corner."""
    mesh = fd.RectangleMesh(4, 4, 6.0, 6.0, comm=comm)
    corner = Protocol(lambda x, y: np.maximum(x, y) < 1e-6, begin, end)
    values = Tissue(mesh, Membrane(), fine=True).record(corner, end)
    return Observations(Tissue(mesh, Membrane()), values, corner)


@pytest.fixture(scope="module")
def observed():
    return observations(fd.COMM_WORLD, 1.0, 3.0)


@pytest.mark.parallel([2, 3])
def test_same_loss_and_gradient_on_ranks():
    """Distributed, and each rank on its own."""
    net = LearnedMembrane(shrink=1.0, seed=3)
    found = []
    for comm in (fd.COMM_WORLD, fd.COMM_SELF):
        data = observations(comm, 0.1, 0.6)
        found.append(gradient(ThroughTheTissue(net, data, data.windows(2, 2), 2), net))
    (loss, slopes), (expected, expected_slopes) = found
    assert loss == pytest.approx(expected, rel=1e-9)
    assert np.linalg.norm(slopes - expected_slopes) < 1e-9 * np.linalg.norm(expected_slopes)


@pytest.mark.parametrize("shrink", [1.0, 1e-3])
def test_same_loss_and_gradient_as_the_torch_loop(observed, shrink):
    """The paper's own method, one window after another and side by side, and femnn."""
    net = LearnedMembrane(shrink=shrink, seed=3)
    starts = observed.windows(4, 2)
    assert len(starts) == 4
    first = gradient(ThroughTheTissue(net, observed, starts, 2, runs=2), net)
    others = ((ThroughTheTissue, 1), (TorchLoop, 2), (TorchLoop, 1))
    for method, runs in others:
        loss, slopes = gradient(method(net, observed, starts, 2, runs), net)
        assert loss == pytest.approx(first[0], rel=1e-10)
        assert np.linalg.norm(slopes - first[1]) < 1e-9 * np.linalg.norm(first[1])


def test_windows_follow_the_tissue(observed):
    """The true membrane's misfit is small, and grows with a window's length; windows lie inside."""
    misfits = []
    for length in (1, 8):
        starts = observed.windows(3, length)
        assert starts[0] == 10  # the stimulus
        assert starts[-1] + length == 30
        with torch.no_grad():
            misfits.append(TorchLoop(Membrane(), observed, starts, length)().item())
    assert misfits[0] < 0.2 * misfits[1] < 1e-4


def test_published_problem(tmp_path):
    """Both methods train along the same path; the report has a line for each membrane."""
    results = framework.main(monodomain, ["--setting", "reduced", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    ours, loop = (results["rows"][name] for name in monodomain.METHODS)
    assert ours["evaluations"] == loop["evaluations"] >= 3
    np.testing.assert_allclose(ours["history"], loop["history"], rtol=1e-6)
    assert ours["loss"] < 0.9 * ours["initial_loss"]
    assert ours["v_training"] == pytest.approx(loop["v_training"], rel=1e-3)
    assert results["rows"][monodomain.ONE]["loss"] < 0.02 * ours["initial_loss"]
    tissue = results["stages"]["tissue"]
    assert tissue["loss"] < tissue["initial_loss"]
    text = monodomain.report(results)
    assert all(f"| {name} |" in text for name in results["rows"])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
