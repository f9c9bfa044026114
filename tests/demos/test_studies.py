"""The demos at reduced size: their accuracy, their files, their input errors."""

import importlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import firedrake as fd
import numpy as np
import pytest
import torch

import femnn

DEMOS = Path(__file__).parents[2] / "demos"


@pytest.fixture
def demo(monkeypatch):
    """Import a demo by its name, as Python does when it is run as a script."""
    monkeypatch.syspath_prepend(str(DEMOS))
    return importlib.import_module


def check_files(folder, numbers, networks):
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "fields_0.vtu" in (folder / "fields" / "fields.pvd").read_text()
    for name, inputs in networks.items():
        law = femnn.load(folder / f"{name}.safetensors")
        values = law(torch.full((3, inputs), 0.5, dtype=torch.float64))
        assert bool((values > 0).all())
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_nonlinear_poisson(demo, tmp_path):
    """kappa(u) is recovered, and its file holds the law that the numbers describe."""
    module = demo("nonlinear_poisson")
    sizes = ["--cells", "12", "--stations", "800", "--iterations", "80"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {"network": 1, "network_noise": 1})
    assert numbers["runs"]["no noise"]["kappa_error"] < 0.08
    assert numbers["runs"]["1 % noise"]["kappa_error"] < 0.12
    u = np.linspace(*numbers["u_range"], 1000)
    law = femnn.load(tmp_path / "network.safetensors")
    with torch.no_grad():
        values = law(torch.from_numpy(u[:, None])).numpy()[:, 0]
    error = np.linalg.norm(values - module.truth(u)) / np.linalg.norm(module.truth(u))
    assert error == pytest.approx(numbers["runs"]["no noise"]["kappa_error"])


def test_coefficient_field(demo, tmp_path):
    """kappa(x, y) is recovered from noisy data, better than by its best constant (12 %)."""
    module = demo("coefficient_field")
    sizes = ["--cells", "40", "--iterations", "150"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {"network": 2, "network_not_regularised": 2})
    assert numbers["runs"]["regularised"]["kappa_error"] < 0.06


def test_hyperelasticity(demo, tmp_path):
    """Stresses of the known law are recovered; the tangent is symmetric, Newton quadratic."""
    sizes = ["--cells", "4", "--iterations", "25"]
    numbers = demo("hyperelasticity").main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {})
    run = numbers["runs"]["no noise"]
    assert max(run["uniaxial_error"], run["shear_error"], run["biaxial_error"]) < 0.05
    assert min(numbers["reach"].values()) > 0.1
    assert run["asymmetry"] < 1e-14
    for norms in run["newton"]:
        last = np.array([norm for norm in norms if norm > 1e-13])[-3:]
        before, after = np.log(last[:-1]), np.log(last[1:])
        assert (after[-1] - after[0]) / (before[-1] - before[0]) > 1.6  # order 2
    energy = femnn.load(tmp_path / "network.safetensors")
    assert isinstance(energy, femnn.ConvexMLP)


def test_boundary_law(demo, tmp_path):
    """h(T) is recovered from thermometers inside, better than by its best constant (60 %)."""
    module = demo("boundary_law")
    sizes = ["--cells", "3", "--iterations", "80"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {"network": 1, "network_noise": 1})
    assert numbers["runs"]["no noise"]["law_error"] < 0.15
    assert numbers["runs"]["noise 0.2 K"]["law_error"] < 0.2
    T = np.linspace(*numbers["visited"], 1000)
    constant = np.linalg.norm(module.truth(T) - module.truth(T).mean())
    assert constant / np.linalg.norm(module.truth(T)) > 0.5


def test_advection_diffusion(demo, tmp_path):
    """The transport that is missing is learned; linear in u it holds for another signal."""
    module, transport = demo("advection_diffusion"), demo("advection_diffusion_model")
    sizes = ["--cells", "10", "--iterations", "60", "--longer", "6"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {})
    runs = numbers["runs"]
    for case in ("training", "other signal", "longer"):
        assert runs["true G"][case] < 0.03
        assert runs["no G"][case] > 0.15
        assert runs["linear in u"][case] < runs["no G"][case] / 3
    assert runs["network"]["training"] < runs["no G"]["training"] / 2
    assert runs["no G"]["operator"] == pytest.approx(1)
    assert runs["true G"]["operator"] == 0
    net = femnn.load(tmp_path / "network.safetensors")
    mesh = fd.UnitSquareMesh(10, 10)
    space = fd.FunctionSpace(mesh, "P", 1)
    data = transport.observe(33, space, transport.signal, transport.END)
    law = partial(femnn.NeuralCoefficient, net)
    model = transport.Transport(mesh, transport.STEP, transport.learned(law))
    found, _ = transport.state_error(model.states(transport.signal, transport.END), data)
    assert found == pytest.approx(runs["network"]["training"])


def test_advection_diffusion_takes_other_solvers(demo):
    """With the network written in UFL and Firedrake's solver the model gives the same u."""
    module = demo("advection_diffusion_model")
    mesh = fd.UnitSquareMesh(5, 5)
    net = femnn.MLP(5, 4, 1, init="normal")

    def written(*operands, degree):
        return femnn.to_ufl(net, *operands)[0]

    def firedrake_solver(F, u, bc):
        problem = fd.NonlinearVariationalProblem(F, u, bc)
        return fd.NonlinearVariationalSolver(problem, solver_parameters={"snes_atol": 1e-10})

    law = partial(femnn.NeuralCoefficient, net)
    kept = module.Transport(mesh, module.STEP, module.learned(law))
    other = module.Transport(mesh, module.STEP, module.learned(written), firedrake_solver)
    for u, same in zip(
        kept.march(module.signal, 1.0), other.march(module.signal, 1.0), strict=True
    ):
        assert fd.norm(u) > 0
        assert fd.errornorm(u, same) < 1e-8 * fd.norm(u)


def test_reaction_rates(demo):
    """The law that knows where there is no reaction, from readings on the same mesh."""
    module, model = demo("reaction_rates"), demo("reaction_model")
    velocity = model.flow(fd.Mesh(str(model.MESH)))
    fine = model.Reactor(velocity, 40, model.truth)
    readings, deviation = model.observe(fine, module.sensors(velocity), 0)
    states, area = model.visited(model.Reactor(velocity, 20, model.truth))
    net, power = module.laws(0, states)["a b N(a, b)"]
    law = model.rate(partial(femnn.NeuralCoefficient, net), power)
    chosen = SimpleNamespace(steps=20, iterations=14)
    result = module.train(velocity, law, net, readings, deviation, chosen)
    assert result.loss < 0.2 * result.initial_loss
    found, exact = module.rate_at(net, power, states), model.truth(*states.T)
    assert model.weighted_difference(found, exact, area) < 0.6


def test_encoder_and_law(demo, tmp_path):
    """Law and encoder are recovered together; neither alone explains the data."""
    module = demo("encoder_and_law")
    numbers = module.main(["--output", str(tmp_path), "--cells", "8", "--iterations", "60"])
    check_files(tmp_path, numbers, {"network": 1, "encoder": 1})
    runs = numbers["runs"]
    assert runs["both"]["loss"] < 0.05 * runs["encoder only"]["loss"]
    assert runs["both"]["loss"] < 0.05 * runs["law only"]["loss"]
    assert runs["both"]["kappa_error"] < 0.2
    assert runs["both"]["theta_error"] < 0.2


@pytest.mark.parametrize(
    "name",
    [
        "advection_diffusion",
        "boundary_law",
        "coefficient_field",
        "encoder_and_law",
        "hyperelasticity",
        "monodomain",
        "nonlinear_poisson",
    ],
)
@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--cells", "1", "integer >= 2"),
        ("--iterations", "0", "integer >= 1"),
        ("--seed", "x", "integer >= 0"),
    ],
)
def test_wrong_options_are_refused(demo, tmp_path, capsys, name, option, value, wanted):
    """A wrong option ends the demo before anything is computed, and says what is wanted."""
    with pytest.raises(SystemExit) as stopped:
        demo(name).main(["--output", str(tmp_path), option, value])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert option in message
    assert value in message
    assert wanted in message
    assert not any(tmp_path.iterdir())
