"""The examples at reduced size, by the accuracy that they reach; what makes them examples."""

import ast
import json
import re
import sys
from pathlib import Path

import matplotlib
import pytest
from mpi4py import MPI

import femnn

DEMOS = Path(__file__).parents[2] / "demos"
README = Path(__file__).parents[2] / "README.md"

# Sizes to run with, and what must hold of the numbers in results.json.
EXAMPLES = {
    "boundary_law": (
        {"CELLS": 2, "ITERATIONS": 30},
        lambda n: n["law_error"] < 0.15,
    ),
    "coefficient_field": (
        {"CELLS": 20, "ITERATIONS": 40},
        lambda n: n["field_error"] < 0.06,
    ),
    "encoder_and_law": (
        {"CELLS": 5, "WALLS": 4, "ITERATIONS": 40},
        lambda n: n["kappa"] < 0.05 and n["theta"] < 0.15,
    ),
    "export_law": (
        {"CELLS": 20, "ITERATIONS": 30},
        lambda n: n["law"] < 0.02 and n["table"] < 1e-4 and n["u by UFL"] < 1e-10,
    ),
    "heat_in_time": (
        {"CELLS": 8, "STEPS": 6, "KEPT": 2, "ITERATIONS": 25},
        lambda n: n["law_error"] < 0.1,
    ),
    "initial_state": (
        {"CELLS": 12, "STEPS": 6, "ITERATIONS": 60},
        lambda n: n["state_error"] < 0.25,
    ),
    "law_with_band": (
        {"CELLS": 8, "STATIONS": 400, "ROUNDS": 4},
        lambda n: n["law_error"] < 0.07 and n["coverage of 90%"] > 0.6,
    ),
    "nonlinear_poisson": (
        {"CELLS": 12, "STATIONS": 800, "ITERATIONS": 80},
        lambda n: n["law_error"] < 0.05,
    ),
    "reaction_splitting": (
        {"CELLS": 8, "STEPS": 5, "ITERATIONS": 50},
        lambda n: n["rate_error"] < 0.12,
    ),
    "sites": (
        {"CELLS": 4, "SITES": 6, "ITERATIONS": 6},
        lambda n: n["k"] < 0.05 and n["theta"] < 0.15 and n["rmse, held out"] < 0.06,
    ),
    "smooth_law": (
        {"CELLS": 8, "STATIONS": 40, "ITERATIONS": 60},
        lambda n: n["with penalty"] < 0.12 and n["with penalty"] < n["no penalty"] / 2,
    ),
    "stations": (
        {"CELLS": 6, "STEPS": 5, "WELLS": 12, "ITERATIONS": 25},
        lambda n: n["law_error"] < 0.1 and n["rmse, held out"] < 0.02,
    ),
    "stored_energy": (
        {"CELLS": 3, "ITERATIONS": 40},
        lambda n: n["slope_error"] < 0.06,
    ),
    "two_laws": (
        {"CELLS": 6, "THERMOMETERS": 10, "ITERATIONS": 15},
        lambda n: (
            n["std of their ratio, temperatures"] < 0.2 * n["std of mean k, temperatures"]
            and n["std of mean h, and power"] < 0.5 * n["std of mean h, temperatures"]
            and n["k, and power, relative L2 error"] < 0.3
        ),
    ),
    "two_layers": (
        {"CELLS": 10, "ITERATIONS": 50},
        lambda n: n["lower"] < 0.03 and n["upper"] < 0.06,
    ),
    "verify_model": (
        {"CELLS": 6},
        lambda n: n["orders"] == pytest.approx([1, 2, 3], abs=0.06),
    ),
}


def source_of(name):
    return (DEMOS / f"{name}.py").read_text()


def resized(source, sizes):
    """The source with other values for constants of the module."""
    lines, left = source.splitlines(), dict(sizes)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in left:
                assert node.lineno == node.end_lineno
                lines[node.lineno - 1] = f"{name} = {left.pop(name)!r}"
    assert not left, f"the example has no constants {sorted(left)}"
    return "\n".join(lines)


def run(name, sizes, folder, monkeypatch):
    """Run an example in a folder, as a script; the numbers that it writes."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with matplotlib.rc_context({"backend": "Agg"}):
        code = compile(resized(source_of(name), sizes), f"{name}.py", "exec")
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
    sizes, holds = EXAMPLES[name]
    numbers = run(name, sizes, folder, monkeypatch)
    assert holds(numbers), numbers
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
    sizes, holds = EXAMPLES[name]
    numbers = run(name, sizes, folder, monkeypatch)
    assert holds(numbers), numbers


def test_every_example_is_tested():
    assert sorted(EXAMPLES) == sorted(path.stem for path in DEMOS.glob("[!_]*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_makes_an_example(name):
    """Short, with a docstring, without options, and with public names only."""
    source = source_of(name)
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


def test_every_example_stands_in_the_readme():
    text = README.read_text()
    assert [name for name in EXAMPLES if f"(demos/{name}.py)" not in text] == []


def test_the_example_of_the_readme(folder, monkeypatch, capsys):
    """The README's own code, as it stands there."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    error = float(capsys.readouterr().out.split("relative error of the law:")[1])
    assert error < 0.02
    assert isinstance(femnn.load("law.safetensors"), femnn.MLP)
