"""The benchmarks' problems at a small size: gradients, not times."""

import json
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from checkpoint_schedules import Revolve
from firedrake.adjoint import (
    Control,
    ReducedFunctional,
    continue_annotation,
    get_working_tape,
    pause_annotation,
)
from mpi4py import MPI

from benchmarks import (
    coverage,
    derivatives,
    ensembles,
    gpu,
    leapfrog,
    memory,
    mosaic,
    on_ranks,
    scaling,
    speedup,
    steps,
    training,
    two_inputs,
    two_ranks,
)
from benchmarks.methods import WithFemnn
from benchmarks.posterior import checkerboard, heat, long_chains, subsurface
from benchmarks.problem import network, other_weights
from femnn import Weights
from femnn.inference.diagnostics import r_hat


def test_thermal_compliance_has_the_same_gradient_three_ways():
    nx = 8
    methods = [mosaic.ByHand(nx), mosaic.WithFemnn(nx), mosaic.WithPyadjoint(nx)]
    for rho in mosaic.densities(nx, 2):
        (value, gradient), *others = [m.value_and_gradient(rho) for m in methods]
        for other_value, other_gradient in others:
            assert other_value == pytest.approx(value, rel=1e-10)
            np.testing.assert_allclose(other_gradient, gradient, rtol=1e-8)
    assert mosaic.finite_difference_error(methods[1], rho) < 1e-7


def test_hessian_action_of_the_benchmarks_problem():
    method, size = WithFemnn(4), len(Weights.of(network()).vector)
    (w,) = other_weights(1, size)
    direction = np.random.default_rng(3).standard_normal(size)
    method.value(w)
    method.gradient()
    action = method.Jhat.hessian(method.weights.like(direction)).vector
    assert derivatives.hessian_error(method, w, direction, action) < 1e-5


def test_a_law_of_two_inputs_by_few_nodes_is_the_law():
    row = two_inputs.compare(48, 24, 1)
    assert row["difference"] < 1e-10
    assert set(row) == {"cells", "width", "forward", "gradient", "Hessian action", "difference"}


@pytest.mark.parametrize("name", [n for n, make in memory.SCHEDULES.items() if make])
def test_schedules_of_the_memory_benchmark_have_the_same_gradient(name):
    steps = 20
    expected = memory.Heat(8, steps).gradient(1.01)
    gradient = memory.Heat(8, steps, memory.SCHEDULES[name](steps)).gradient(1.01)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_leapfrog_has_the_gradient_of_firedrakes_tape(monkeypatch):
    monkeypatch.setattr(steps, "STEPS", 5)

    class Ours(leapfrog.WithPyadjoint):
        functional, make_solver = leapfrog.WithFemnn.functional, leapfrog.WithFemnn.make_solver

    gradients = []
    for kind in (leapfrog.WithPyadjoint, Ours):
        method = kind(cells=10)
        continue_annotation()
        method.run()
        Jhat = ReducedFunctional(method.functional(), Control(method.control))
        pause_annotation()
        Jhat(method.near(50))
        gradients.append(Jhat.derivative().dat.data_ro)
        get_working_tape().clear_tape()
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-16)


SMALL = {  # sizes, iterations of L-BFGS, and the error of the law that is reached
    "nonlinear_poisson": ({"cells": 8, "n_stations": 200}, 60, 0.1),
    "hyperelasticity": ({"cells": 2, "width": 2, "steps": 1}, 15, 0.6),
    "coefficient_field": ({"cells": 8}, 20, 0.1),
    "heat_in_time": ({"cells": 8, "steps": 5}, 20, 0.3),
}


@pytest.mark.parametrize("name", training.PROBLEMS)
def test_gauss_newton_reaches_the_loss_of_many_iterations(name):
    sizes, iterations, error = SMALL[name]
    make = training.PROBLEMS[name][0]
    rows = training.compare(make(**sizes), iterations, 20)
    newton, slow = rows["gauss-newton"], rows["L-BFGS"]
    assert newton["loss"] <= slow["loss"]
    assert newton["iterations"] < slow["iterations"]
    assert newton["error"] < error
    assert newton["solves"]["tangent"] > slow["solves"]["tangent"] == 0


def test_evidence_finds_the_noise():
    row = training.with_noise(cells=6, n_stations=200, rounds=4)
    assert row["error"] < 0.2
    assert 0.3 < row["noise"] < 1.5


def test_the_posterior_of_heat_has_the_closed_form():
    rows = heat.measure(heat.Size(nodes=30, modes=6, steps=4))
    for row in rows.values():
        assert row["mean error"] < 1e-8
        assert row["covariance error"] < 1e-8
        for level, share in zip(heat.LEVELS, row["coverage"], strict=True):
            assert abs(share - level) < 3 * np.sqrt(level * (1 - level) / row["draws"])


def test_heat_under_a_schedule_has_the_same_posterior():
    size = heat.Size(nodes=20, modes=4, steps=4)
    model = heat.Heat(size, 0.01, 1.0, Revolve(4, 2))
    found, (mean, covariance) = model.posterior(), model.closed_form(model.values)
    assert np.allclose(found.mean, mean, rtol=1e-8, atol=1e-10)
    assert np.allclose(found.covariance, covariance, rtol=1e-7, atol=1e-12)


def test_newton_and_posterior_of_the_subsurface():
    """The prior's trace comes near the published one from below, as the mesh gets finer."""
    (row,) = subsurface.measure((14,)).values()  # more numbers than a matrix is made for
    work = row["newton"]["1e-06"]
    assert work["iterations"] <= 12
    assert work["actions"] <= 100
    assert row["prior"] == pytest.approx(subsurface.PUBLISHED["prior"], rel=0.07)
    assert 0.3 * row["prior"] < row["posterior"] < 0.7 * row["prior"]


def test_chains_of_a_small_checkerboard():
    rows = checkerboard.measure(steps=60, n=2, cells=8, fine=16, n_chains=2)
    assert rows["above one"] == 4
    assert rows["h-pcn"]["accepted"] > 0.15
    assert rows["h-pcn"]["ess per 1000 solves"] > rows["pcn"]["ess per 1000 solves"]


def test_long_chains_are_of_the_same_posterior():
    """The model without femnn has the same data and density; its chains mix."""
    ours, theirs = checkerboard.Membrane(2, 8, 16), long_chains.Membrane(8, 2)
    assert np.allclose(long_chains.Membrane(16, 2).observed(checkerboard.truth(2)), ours.values)
    theirs.take(ours.values)
    random = np.random.default_rng(0)
    for q in random.normal(3, 1, (3, 4)):
        assert theirs.energy(q) == pytest.approx(ours.Jhat(ours.weights.like(q)), rel=1e-11)
        assert np.allclose(theirs.gradient(q), ours.Jhat.derivative().vector, rtol=1e-8)
    mean, covariance = long_chains.laplace(theirs)
    made = [long_chains.Metropolis(theirs, mean, covariance, seed) for seed in (1, 2)]
    for chain in made:
        chain.settle(4000)
    draws = np.array([chain.draws(4000, 4) for chain in made])
    assert r_hat(draws).max() < 1.05


def test_bands_hold_the_true_law_and_widen_where_there_are_no_data(tmp_path):
    """Points of one law are correlated: a share has the error of as many numbers as draws."""
    case, draws = coverage.OfU(6, 100, width=4, below=coverage.GAP, refined=False), 2
    path = tmp_path / "draws.jsonl"
    rows = coverage.Draws(case, path, rounds=4, maxiter=5).run(draws)
    found, by = coverage.summary(case, rows), coverage.widened(case, rows)
    assert len(path.read_text().splitlines()) == found["draws"] == draws
    assert 0.7 < found["noise"] < 1.3
    for level, share in zip(coverage.LEVELS, by["with data"], strict=True):
        assert share > level - 3 * np.sqrt(level * (1 - level) / draws)
    assert by["std without"] > 3 * by["std with data"]


SMALL_LAWS = {
    "kappa(x, y)": lambda: coverage.OfPlace(4, 100, width=3, refined=False),
    "k(T) in time": lambda: coverage.InTime(6, 2, 20, width=3, refined=False),
}


@pytest.mark.parametrize("name", SMALL_LAWS)
def test_laws_of_the_coverage_are_found(name):
    case = SMALL_LAWS[name]()
    _, row, _ = coverage.Draws(case, rounds=2).fitted(0)
    assert row["error"] < 0.15
    assert row["inside"] == sorted(row["inside"])


def test_rates_at_points_need_no_firedrake(capsys):
    """The processor's rates; those of a device stand beside them where there is one."""
    found = gpu.measure(1, widths=(8,), n=5000)
    rows = found["cpu"]["rows"]
    assert [row["sweep"] for row in rows] == list(gpu.WORK)
    assert all(row["points"] > 0 and row["roofline"] > 0 for row in rows)
    assert rows[0]["weights"] == 3 * 8 + 9 * 8 + 9
    gpu.report(found)
    assert "cpu" in capsys.readouterr().out


def test_the_command_runs_where_only_torch_is(tmp_path):
    """As on a machine that is lent for its accelerator."""
    code = f"""
        import sys
        from importlib import util

        known = util.find_spec
        util.find_spec = lambda name, *a: None if name == "firedrake" else known(name, *a)
        sys.argv = ["benchmarks", "--repeats", "1", "--output", {str(tmp_path)!r}]
        from benchmarks import gpu
        gpu.WIDTHS, gpu.POINTS["cpu"] = (8,), 2000
        import runpy
        runpy.run_module("benchmarks", run_name="__main__")
        assert not {{"firedrake", "pyadjoint", "mpi4py"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["gpu"]


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize("solver", two_ranks.SOLVERS)
def test_parts_of_a_solve_on_two_ranks(solver):
    """All three ways give one gradient, and parts are not longer than the whole."""
    row = two_ranks.compare(8, solver, repeats=1)
    assert row["gradient error"] < 1e-7
    assert set(row["work"]) == (set(two_ranks.WORK) if MPI.COMM_WORLD.rank == 0 else set())
    for found in row["work"].values():
        assert 0 < sum(part["share"] for part in found["parts"].values()) < 1
        assert min(found["times faster"], found["copies"]) > 0


@pytest.mark.parallel([1, 2])
@pytest.mark.parametrize(("problem", "n"), [("two sources", 4), ("tomography", 3)])
def test_members_on_two_ranks(problem, n):
    """The gradient is that of all members on one rank."""
    row = ensembles.compare(problem, n, repeats=1)
    assert row["gradient error"] < 1e-10
    if MPI.COMM_WORLD.rank == 0:
        assert set(row["work"]) == set(ensembles.WORK[problem])


@pytest.mark.parallel([1, 2])
def test_copies_and_ranks_against_one():
    """Work that ranks divide is faster by their number, copies of a nap gain as much."""

    def nap(comm):
        time.sleep(0.1 / comm.size)
        return comm.size

    compared, size = speedup.Compared(lambda comm: comm), MPI.COMM_WORLD.size
    for _ in range(3):  # the shortest counts
        results = compared.measure("nap", nap)
    assert results["ranks"] == size
    assert results["copies"] == 1
    if MPI.COMM_WORLD.rank == 0:
        row = compared.report()["nap"]
        assert row["times faster"] == pytest.approx(size, rel=0.5)
        assert row["copies"] == pytest.approx(size, rel=0.5)


@pytest.mark.parallel([1, 3])
def test_counts_of_more_ranks():
    """Derivatives are those of one rank; what femnn sends for them are weights and readings."""
    n, stations, comm = 6, 20, MPI.COMM_WORLD
    row, alone = on_ranks.count(n, stations), on_ranks.Model(n, MPI.COMM_SELF, stations)
    w = other_weights(2, len(alone.weights))[0]
    alone.forward(w)
    for name in ("gradient", "Hessian action"):
        expected = on_ranks.WORK[name](alone, w)
        np.testing.assert_allclose(row["vectors"][name], expected, rtol=1e-6, atol=1e-8)
    low, high = row["points"]
    assert low <= 6 * 2 * n**2 / comm.size <= high
    for name in ("gradient", "Hessian action", "Gauss-Newton action"):
        counts = row["counts"][name]
        for key in ("own calls", "own bytes", "messages", "bytes", "reductions"):
            assert (counts[key] > 0) == (comm.size > 1)
        numbers = 2 * (len(w) + stations) + 10 * counts["own calls"]
        assert counts["own bytes"] <= 8 * numbers


def test_the_model_of_a_machine():
    """Computing is shared between ranks, reductions are not."""
    work = {"messages": 10, "bytes": 1e4, "reductions": 5, "own calls": 3, "own bytes": 800}
    row = {"ranks": 4, "nodes": 1e4, "points": [2e4, 3e4], "counts": {"forward": work}}
    clock = {"processor": {"forward": 1.0}, "points": 1e5}
    run = {"counts": [row], "clocks": {"rows": [clock]}}
    few, many = (scaling.model(run, ranks=r, points=1e8)["forward"] for r in (100, 10000))
    assert few["computing"] == pytest.approx(10.0)
    assert many["computing"] == pytest.approx(0.1)
    assert many["reductions"] == pytest.approx(2 * few["reductions"])
    assert many["messages"] == pytest.approx(few["messages"])
    assert many["bytes"] < few["bytes"]
