"""The studies at reduced size: their accuracy, their files, their input errors."""

import importlib
import json
from functools import partial

import firedrake as fd
import numpy as np
import pytest
import torch

import femnn
from demos.studies.advection import model as transport


def study(name):
    """The module that ``python -m demos.studies.name`` runs."""
    return importlib.import_module(f"demos.studies.{name}.__main__")


def check_files(folder, numbers, networks):
    assert json.loads((folder / "results.json").read_text()) == numbers
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "fields_0.vtu" in (folder / "fields" / "fields.pvd").read_text()
    for name, inputs in networks.items():
        law = femnn.load(folder / f"{name}.safetensors")
        values = law(torch.full((3, inputs), 0.5, dtype=torch.float64))
        assert bool((values > 0).all())
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_nonlinear_poisson(tmp_path):
    """kappa(u) is recovered, and its file holds the law that the numbers describe."""
    module = study("nonlinear_poisson")
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


def test_coefficient_field(tmp_path):
    """kappa(x, y) is recovered from noisy data, better than by its best constant (12 %)."""
    module = study("coefficient_field")
    sizes = ["--cells", "28", "--iterations", "100"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {"network": 2, "network_not_regularised": 2})
    assert numbers["runs"]["regularised"]["kappa_error"] < 0.06


def test_hyperelasticity(tmp_path):
    """Stresses of the known law are recovered; the tangent is symmetric, Newton quadratic."""
    sizes = ["--cells", "4", "--iterations", "12"]
    numbers = study("hyperelasticity").main(["--output", str(tmp_path), *sizes])
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


def test_boundary_law(tmp_path):
    """h(T) is recovered from thermometers inside, better than by its best constant (60 %)."""
    module = study("boundary_law")
    sizes = ["--cells", "2", "--iterations", "40"]
    numbers = module.main(["--output", str(tmp_path), *sizes])
    check_files(tmp_path, numbers, {"network": 1, "network_noise": 1})
    assert numbers["runs"]["no noise"]["law_error"] < 0.15
    assert numbers["runs"]["noise 0.2 K"]["law_error"] < 0.2
    T = np.linspace(*numbers["visited"], 1000)
    constant = np.linalg.norm(module.truth(T) - module.truth(T).mean())
    assert constant / np.linalg.norm(module.truth(T)) > 0.5


def test_advection(tmp_path):
    """The transport that is missing is learned; linear in u it holds for another signal."""
    sizes = ["--cells", "8", "--iterations", "40", "--longer", "5", "--steps", "1"]
    numbers = study("advection").main(["--output", str(tmp_path), *sizes])
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
    mesh = fd.UnitSquareMesh(8, 8)
    space = fd.FunctionSpace(mesh, "P", 1)
    data = transport.observe(27, space, transport.signal, transport.END, step=0.02)
    law = partial(femnn.NeuralCoefficient, net)
    model = transport.Transport(mesh, transport.OBSERVED, transport.learned(law))
    found, _ = transport.state_error(model.states(transport.signal, transport.END), data)
    assert found == pytest.approx(runs["network"]["training"])


def test_advection_takes_other_solvers():
    """With the network written in UFL and Firedrake's solver the model gives the same u."""
    mesh = fd.UnitSquareMesh(5, 5)
    net = femnn.MLP(5, 4, 1, init="normal")

    def written(*operands, degree):
        return femnn.to_ufl(net, *operands)[0]

    def firedrake_solver(F, u, bc):
        problem = fd.NonlinearVariationalProblem(F, u, bc)
        return fd.NonlinearVariationalSolver(problem, solver_parameters={"snes_atol": 1e-10})

    law = partial(femnn.NeuralCoefficient, net)
    kept = transport.Transport(mesh, transport.STEP, transport.learned(law))
    other = transport.Transport(mesh, transport.STEP, transport.learned(written), firedrake_solver)
    runs = (model.march(transport.signal, 1.0) for model in (kept, other))
    for u, same in zip(*runs, strict=True):
        assert fd.norm(u) > 0
        assert fd.errornorm(u, same) < 1e-8 * fd.norm(u)


def test_reaction(tmp_path):
    """The form that knows where nothing reacts learns most from few iterations."""
    sizes = ["--steps", "6", "--duration", "0.72", "--iterations", "8"]
    runs = study("reaction").main(["--output", str(tmp_path), *sizes])["runs"]
    check_files(tmp_path, json.loads((tmp_path / "results.json").read_text()), {})
    true, learned, number = (runs[name] for name in ("true law", "a b N(a, b)", "K a b"))
    assert true["prediction_error"] < 0.04
    assert true["loss"] < 0.7 < learned["loss"] < 0.8 * number["loss"]
    assert learned["rate_error"] < 0.8 * number["rate_error"]
    assert learned["prediction_error"] < 0.7 * number["prediction_error"]
    assert runs["N(a, b)"]["rate_error"] > 2 * learned["rate_error"]


def test_encoder_and_law(tmp_path, monkeypatch):
    """Law and encoder are recovered together; neither alone explains the data of five walls."""
    module = study("encoder_and_law")
    monkeypatch.setattr(module, "ATTRIBUTES", np.linspace(0, 1, 5))
    numbers = module.main(["--output", str(tmp_path), "--cells", "6", "--iterations", "80"])
    check_files(tmp_path, numbers, {"network": 1, "encoder": 1})
    runs = numbers["runs"]
    assert runs["both"]["loss"] < 0.05 * runs["encoder only"]["loss"]
    assert runs["both"]["loss"] < 0.05 * runs["law only"]["loss"]
    assert runs["both"]["kappa_error"] < 0.2
    assert runs["both"]["theta_error"] < 0.2


@pytest.mark.parametrize(
    "name",
    [
        "advection",
        "boundary_law",
        "coefficient_field",
        "encoder_and_law",
        "hyperelasticity",
        "nonlinear_poisson",
        "tissue",
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
def test_wrong_options_are_refused(tmp_path, capsys, name, option, value, wanted):
    """A wrong option ends the demo before anything is computed, and says what is wanted."""
    with pytest.raises(SystemExit) as stopped:
        study(name).main(["--output", str(tmp_path), option, value])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert option in message
    assert value in message
    assert wanted in message
    assert not any(tmp_path.iterdir())
