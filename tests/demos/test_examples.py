"""The examples at reduced size, by the accuracy that they reach; what makes them examples."""

import ast
import json
import re
import sys

import matplotlib
import pytest
from mpi4py import MPI

import femnn
from docs.site import gallery

# What must hold of the numbers in results.json, at the sizes of docs/site/gallery.py.
EXAMPLES = {
    "boundary_law": lambda n: n["law_error"] < 0.15,
    "coefficient_field": lambda n: n["field_error"] < 0.06,
    "encoder_and_law": lambda n: n["kappa"] < 0.05 and n["theta"] < 0.15,
    "export_law": lambda n: n["law"] < 0.02 and n["table"] < 1e-4 and n["u by UFL"] < 1e-10,
    "heat_in_time": lambda n: n["law_error"] < 0.1,
    "initial_state": lambda n: n["state_error"] < 0.25,
    "law_with_band": lambda n: n["law_error"] < 0.07 and n["coverage of 90%"] > 0.6,
    "nonlinear_poisson": lambda n: n["law_error"] < 0.05,
    "reaction_splitting": lambda n: n["rate_error"] < 0.12,
    "sites": lambda n: n["k"] < 0.05 and n["theta"] < 0.15 and n["rmse, held out"] < 0.06,
    "smooth_law": lambda n: n["with penalty"] < 0.12 and n["with penalty"] < n["no penalty"] / 2,
    "stations": lambda n: n["law_error"] < 0.1 and n["rmse, held out"] < 0.02,
    "stored_energy": lambda n: n["slope_error"] < 0.06,
    "two_laws": lambda n: (
        n["std of their ratio, temperatures"] < 0.2 * n["std of mean k, temperatures"]
        and n["std of mean h, and power"] < 0.5 * n["std of mean h, temperatures"]
        and n["k, and power, relative L2 error"] < 0.3
    ),
    "two_layers": lambda n: n["lower"] < 0.03 and n["upper"] < 0.06,
    "verify_model": lambda n: n["orders"] == pytest.approx([1, 2, 3], abs=0.06),
}


def text_of(name):
    return (gallery.ROOT / "demos" / f"{name}.py").read_text()


def run(name, folder, monkeypatch):
    """Run an example in a folder, as a script; the numbers that it writes."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with matplotlib.rc_context({"backend": "Agg"}):
        code = compile(gallery.source_of(name), f"{name}.py", "exec")
        exec(code, {"__name__": "__main__"})
        matplotlib.pyplot.close("all")
    MPI.COMM_WORLD.barrier()
    return json.loads((folder / "output" / name / "results.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """A folder that is the same on every rank."""
    return MPI.COMM_WORLD.bcast(tmp_path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, folder, monkeypatch, capfd):
    """It finds what it is to find, says so in its last line, and writes its files."""
    numbers = run(name, folder, monkeypatch)
    assert EXAMPLES[name](numbers), numbers
    output = folder / "output" / name
    assert (output / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [str(path) for path in output.rglob(".*")] == []
    laws = list(output.glob("*.safetensors"))
    assert laws
    assert all(isinstance(femnn.load(law), femnn.MLP | femnn.ConvexMLP) for law in laws)
    last = capfd.readouterr().out.strip().splitlines()[-1]
    assert re.search(r"(error|orders of the remainders).*\d", last)


@pytest.mark.parallel(2)
@pytest.mark.parametrize("name", ["coefficient_field", "encoder_and_law", "sites", "smooth_law"])
def test_example_on_two_ranks(name, folder, monkeypatch):
    numbers = run(name, folder, monkeypatch)
    assert EXAMPLES[name](numbers), numbers


def test_every_example_is_tested():
    demos = sorted(path.stem for path in (gallery.ROOT / "demos").glob("[!_]*.py"))
    assert sorted(EXAMPLES) == sorted(gallery.DEMOS) == demos


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_makes_an_example(name):
    """Short, with a docstring, without options, and with public names only."""
    source = text_of(name)
    assert len(source.splitlines()) < 80
    tree = ast.parse(source)
    assert len(ast.get_docstring(tree).splitlines()) > 2
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "femnn":
            names.add(node.attr)
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), f"{node.attr} is not public"
    assert not {m for m in modules if m.startswith("femnn.") or m in ("argparse", "common")}
    assert {"femnn", "firedrake", "firedrake.adjoint"} <= modules
    assert "save_results" in names
    assert names <= set(femnn.__all__)
    assert f"output/{name}" in source


def test_every_example_stands_in_the_gallery():
    text = (gallery.ROOT / "docs" / "gallery.md").read_text()
    assert [name for name in EXAMPLES if f"(../demos/{name}.py)" not in text] == []
