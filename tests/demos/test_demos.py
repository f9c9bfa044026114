"""The demos at reduced size: their accuracy, their files, their input errors."""

import importlib
import json
from pathlib import Path

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


@pytest.mark.parametrize("name", ["nonlinear_poisson", "coefficient_field"])
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
