"""The published problems at reduced size: accuracy, and agreement with the paper's own method."""

import importlib
import itertools
import json
from dataclasses import replace

import firedrake as fd
import numpy as np
import pytest
from firedrake.petsc import PETSc

import femnn
from benchmarks.published import (
    advection_diffusion,
    calderon,
    convergence,
    framework,
    heat,
    heat_discontinuous,
    heat_model,
    noise,
    partial_observation,
    pinn,
    reaction_rates,
    training,
)
from benchmarks.published.methods import (
    OURS,
    OURS_LONGER,
    THEIRS,
    Hybrid,
    WrittenOut,
    by_femnn,
)
from benchmarks.published.poisson import Poisson, coefficient_error, constant_error, grid, network
from benchmarks.published.training import Budget


def trained(problem, model, net, iterations):
    """Femnn's training of a model: what it did, and the errors after it."""
    return by_femnn(model, net, problem.mesh, problem.errors, Budget(iterations))


def coarse(problem):
    """The model of a heat equation at reduced size."""
    return problem.SETTINGS["reduced"].model()


@pytest.fixture
def ticking(monkeypatch):
    """A clock on which each look is a second later, so that times are amounts of work."""
    monkeypatch.setattr(training, "cpu_seconds", itertools.count().__next__)


def steady_network():
    """Few weights compile sooner."""
    return femnn.MLP(2, 4, 1, activation="sigmoid", init="uniform", seed=2)


def penalty():
    problem = Poisson(4, noise.truth)
    added = noise.noise(problem, noise.SETTINGS["reduced"])
    return problem.mesh, noise.misfit(problem, added, 1e-2), steady_network()


def flux():
    problem = calderon.Calderon(4, 8)
    return problem.mesh, problem.model, steady_network()


def linear_steps():
    problem = heat_model.Heat(heat_model.smooth, 10, 0.05, 100, 5e-3, 0.05)
    law = femnn.MLP(1, 4, 1, activation="tanh", init="uniform", seed=1)
    return problem.mesh, problem.model, law


def nonlinear_steps():
    """With boundary values that change in time, and weight decay."""
    settings = replace(advection_diffusion.SETTINGS["reduced"], end=0.4, longer=0.4)
    problem = advection_diffusion.Problem(settings)
    problem.parameters |= {"snes_rtol": 1e-12, "snes_atol": 1e-13}
    return (
        problem.mesh,
        problem.model,
        advection_diffusion.networks(settings.seed, settings.hidden)[0],
    )


def sensors():
    """With sources that change in time, and inputs and output of the network transformed."""
    settings = reaction_rates.SETTINGS["reduced"]
    problem = reaction_rates.Problem(settings)
    problem.parameters |= {"snes_rtol": 1e-12, "snes_atol": 1e-13}
    return problem.mesh, problem.model, problem.network(settings)


@pytest.mark.parametrize("make", [penalty, flux, linear_steps, nonlinear_steps, sensors])
def test_same_path_as_the_network_in_ufl(make):
    """From the same weights the paper's method has the same gradient, and so the same losses."""
    mesh, model, net = make()
    ours, theirs = Hybrid(net, mesh), WrittenOut(net, mesh)
    for method in (ours, theirs):
        method.record(model)
    for weights in (ours.first, ours.first + 0.1):
        value, gradient = ours.value_and_gradient(weights)
        expected, expected_gradient = theirs.value_and_gradient(weights)
        assert value == pytest.approx(expected, rel=1e-10)
        error = np.linalg.norm(gradient - expected_gradient)
        assert error < 1e-9 * np.linalg.norm(expected_gradient)
    losses, expected_losses = (np.array(m.train(Budget(4)).history) for m in (ours, theirs))
    assert len(losses) == 5
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)


def test_squared_norm():
    """On a mesh of any size: the weights' own, with its gradient."""
    mesh, net = fd.RectangleMesh(2, 3, 2.0, 3.0), femnn.MLP(2, 3, 1, seed=1)
    for method in (Hybrid(net, mesh), WrittenOut(net, mesh)):
        method.record(lambda method: method.squared_norm())
        weights = method.first + 0.1
        value, gradient = method.value_and_gradient(weights)
        assert value == pytest.approx(weights @ weights, rel=1e-13)
        np.testing.assert_allclose(gradient, 2 * weights, rtol=1e-12)


@pytest.mark.parametrize("problem", [advection_diffusion, reaction_rates])
def test_nonlinear_problems(problem, tmp_path, ticking):
    """Both methods take the same path, more time gives a lower loss; the figure is drawn."""
    results = framework.run(problem, "reduced")
    rows, iterations = results["rows"], results["settings"]["iterations"]
    assert framework.agreement(rows) == rows[THEIRS]["iterations"] == iterations
    for error in problem.ERRORS:
        assert rows[OURS][error] == pytest.approx(rows[THEIRS][error], rel=1e-4)
    assert rows[OURS_LONGER]["loss"] < rows[OURS]["loss"] < rows[OURS]["initial_loss"]
    framework.write(problem, results, tmp_path)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = problem.report(json.loads((tmp_path / "results.json").read_text()))
    for name in {**results["known"], **rows}:
        assert f"| {name} |" in text


def test_convergence_in_h():
    """Second order for k and u, when the training has come below the discretisation error."""
    errors = []
    for n in (5, 10, 20):
        problem = Poisson(n, convergence.truth)
        found = trained(problem, convergence.misfit(problem), network(2), 600)
        errors.append((found["k_error"], found["u_error"]))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders.min() > 1.5
    assert orders.mean(axis=0).min() > 1.7
    assert errors[-1][0] < 0.02


def test_noise_wants_the_penalty():
    """With long training k fits the noise, unless its gradient is penalised."""
    problem = Poisson(10, noise.truth)
    added = noise.noise(problem, noise.SETTINGS["reduced"])
    with_penalty, without = (
        trained(problem, noise.misfit(problem, added, penalty), network(3), 600)["k_error"]
        for penalty in (1e-4, 0.0)
    )
    assert with_penalty < 0.12
    assert with_penalty < 0.7 * without


def test_partial_observation():
    """In the box u is matched to a per cent, and k is nearer than the best constant."""
    problem, points = Poisson(20, partial_observation.truth), grid()
    net = network(6)
    box = points[partial_observation.inside(points)]
    result = trained(problem, partial_observation.misfit(problem), net, 400)
    size = len(box) / len(points) * np.mean(np.prod(np.sin(np.pi * box) ** 2, axis=1))
    assert (result["loss"] / size) ** 0.5 < 0.01
    constant = constant_error(partial_observation.truth, box)
    assert coefficient_error(net, partial_observation.truth, box) < 0.75 * constant


def test_calderon():
    """The flux is matched, and k inside is nearer than the best constant."""
    problem, net = calderon.Calderon(20, 40), network(1)
    result = trained(problem, problem.model, net, 300)
    assert (result["loss"] / problem.flux_size) ** 0.5 < 0.03
    assert result["k_error"] < 0.9 * constant_error(calderon.truth, grid())


def test_one_factorisation_for_all_time_steps():
    """A law of x alone makes one matrix: its factors serve all steps and their adjoints."""
    problem = coarse(heat)
    method = Hybrid(heat_model.network(2), problem.mesh)
    method.record(problem.model)
    PETSc.Log.begin()
    factorisations = PETSc.Log.Event("MatLUFactorNum")
    solves = [PETSc.Log.Event(name) for name in ("MatSolve", "MatSolveTranspos")]
    before = [e.getPerfInfo()["count"] for e in (factorisations, *solves)]
    method.value_and_gradient(method.first + 0.1)
    after = [e.getPerfInfo()["count"] for e in (factorisations, *solves)]
    assert np.subtract(after, before).tolist() == [1, problem.steps, problem.steps]


def test_heat_with_a_smooth_coefficient():
    problem = coarse(heat)
    errors = trained(problem, problem.model, heat_model.network(2), 60)
    assert errors["k_error"] < 0.005
    assert errors["u_error"] < 0.005


def test_heat_with_a_discontinuous_coefficient():
    """Truncated Newton goes on where L-BFGS has ended, and the best weights are kept."""
    problem = coarse(heat_discontinuous)
    net = heat_model.network(2)
    method = Hybrid(net, problem.mesh)
    method.record(problem.model)
    first = method.train(Budget(30))
    both = method.train(Budget(30, newton_evaluations=30))
    assert both.loss < first.loss
    assert both.iterations > first.iterations
    assert method.value_and_gradient(np.array(both.weights))[0] == pytest.approx(both.loss)
    method.weights.assign(np.array(both.weights))
    assert problem.errors(net)["k_error"] < 0.35


def test_a_training_ends_with_its_time(ticking):
    """Each stage stops, and keeps what it has reached; both methods train alike."""
    problem = coarse(heat)
    method = Hybrid(heat_model.network(1), problem.mesh)
    method.record(problem.model)
    budget = Budget(10**6, seconds=5)
    ours = method.train(budget)
    theirs = training.quasi_newton(method.value_and_gradient, method.first, budget, 0.0)
    assert (ours.iterations, theirs.iterations) == (5, 6)  # ours looks before the first one too
    np.testing.assert_allclose(ours.history, theirs.history[:-1], rtol=1e-6)
    first = method.train(Budget(2))
    both = method.train(Budget(2, newton_evaluations=10**6, newton_seconds=5))
    assert both.evaluations == first.evaluations + 5
    for result in (ours, theirs, both):
        assert result.loss < result.initial_loss


def test_the_data_of_the_heat_equation():
    """With k = 1 the fine solution is the known series, to order 2 in the step."""
    errors = []
    for step in (4e-3, 2e-3):
        u = heat_model.fine_solution(lambda x: 1 + 0 * x, 800, step, 0.02)
        x, t, n = np.linspace(0, 1, 801), 0.02 * np.arange(1, 6), np.arange(1, 60, 2)
        modes = np.exp(-((n * np.pi) ** 2) * t[:, None]) * 8 / (n * np.pi) ** 3
        errors.append(np.abs(u[1:] - modes @ np.sin(np.pi * np.outer(n, x))).max())
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] > 3.5


@pytest.mark.parametrize("mixed", [False, True])
def test_pinn(mixed):
    """The loss falls; with the exact solution of a heat equation the residual is small."""
    problem = coarse(heat)
    data = pinn.Observations(problem.nodes, problem.times[::4], problem.data[::4])
    weights = heat.WEIGHTED
    net, result = pinn.train(
        data, cells=40, steps=20, mixed=mixed, weights=weights, seed=1, iterations=100
    )
    assert result["loss"] < 0.02 * result["initial_loss"]
    assert result["loss"] == pytest.approx(float(net.loss(weights).detach()))
    k, u = pinn.values(net, heat_model.midpoints(), problem.nodes, problem.times[1:])
    assert u.shape == (20, 41)
    assert problem.errors_of(k, u)["u_error"] < 0.3


def test_pinn_stops_with_its_time(ticking):
    x = np.linspace(0, 1, 11)
    data = pinn.Observations(x, np.array([0.0, 0.1]), np.array([x * (1 - x), 0.4 * x * (1 - x)]))
    common = {"cells": 10, "steps": 5, "mixed": False, "weights": heat.EQUAL, "seed": 1}
    net, result = pinn.train(data, **common, iterations=10**6, seconds=7)
    assert result["evaluations"] == 7
    assert 1 <= result["iterations"] <= 7
    assert result["loss"] == pytest.approx(float(net.loss(heat.EQUAL).detach()))
    assert result["loss"] < result["initial_loss"]


def test_files_and_document(tmp_path, monkeypatch, capsys):
    """A problem's command line writes its files, from which the document is made."""
    settings = convergence.Settings((2, 3), 2)
    monkeypatch.setitem(convergence.SETTINGS, "reduced", settings)
    folder = tmp_path / "results" / "convergence"
    results = framework.main(convergence, ["--setting", "reduced", "--output", str(folder)])
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    rows = results["cases"]["n = 2"]
    assert set(rows) == {OURS, THEIRS, OURS_LONGER}
    assert "| n = 3, network in UFL |" in capsys.readouterr().out
    everything = importlib.import_module("benchmarks.published.__main__")
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(everything, "DOCUMENT", tmp_path / "docs" / "reproduction.md")
    monkeypatch.setattr(everything, "FIGURES", tmp_path / "docs" / "figures")
    (tmp_path / "docs").mkdir()
    old = "# Old\n\n## Noise\n\nkept\n\n## Error convergence in h\n\nreplaced\n"
    (tmp_path / "docs" / "reproduction.md").write_text(old)
    everything.collect()
    text = (tmp_path / "docs" / "reproduction.md").read_text()
    assert text.index("## Error convergence in h") < text.index("## Noise\n\nkept")
    assert "Old" not in text
    assert "replaced" not in text
    assert "figures/published_convergence.png" in text
    assert (tmp_path / "docs" / "figures" / "published_convergence.png").exists()


def test_every_problem_has_what_the_document_takes():
    everything = importlib.import_module("benchmarks.published.__main__")
    for name, problem in everything.PROBLEMS.items():
        assert name == problem.NAME
        assert set(problem.SETTINGS) == {"paper", "short", "reduced"}
        assert all(callable(getattr(problem, f)) for f in ("run", "figure", "report"))


def test_an_unknown_setting_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        framework.main(convergence, ["--setting", "long", "--output", str(tmp_path)])
    assert "invalid choice: 'long'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
