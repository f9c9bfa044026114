"""A run's files: what they hold, what is refused before anything is written, failures on ranks."""

import json
import os
from pathlib import Path

import firedrake as fd
import numpy as np
import pytest
import torch
from firedrake import adjoint
from matplotlib import pyplot as plt
from mpi4py import MPI

import femnn
from femnn.export import results


@pytest.fixture
def folder(tmp_path):
    """A folder that does not exist yet, the same on every rank."""
    return MPI.COMM_WORLD.bcast(tmp_path) / "new" / "run"


@pytest.fixture
def u():
    mesh = fd.UnitSquareMesh(4, 4)
    field = fd.Function(fd.FunctionSpace(mesh, "P", 1), name="u")
    return field.interpolate(fd.SpatialCoordinate(mesh)[0])


@pytest.fixture
def figure():
    drawn, ax = plt.subplots()
    ax.plot([0, 1], [1, 2])
    yield drawn
    plt.close(drawn)


def read(folder):
    return json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def tree(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parallel([1, 2])
def test_all_files(folder, u, figure):
    net = femnn.MLP(1, 4, 1, seed=3)
    given = {"error": 0.5, "steps": 3}
    returned = femnn.save_results(
        str(folder), given, figure=figure, networks={"law": net}, fields=[u]
    )
    MPI.COMM_WORLD.barrier()
    assert returned == folder
    assert tree(folder) == ["fields", "figure.png", "law.safetensors", "results.json"]
    assert read(folder) == given
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert femnn.evaluate(femnn.load(folder / "law.safetensors"), 0.3) == femnn.evaluate(net, 0.3)
    listed = (folder / "fields" / "fields.pvd").read_text()
    (name,) = [part.split('"')[1] for part in listed.split("file=")[1:]]
    assert (folder / "fields" / name).is_file()
    mode = (folder / "fields").stat().st_mode & 0o777
    assert mode == (folder.parent.stat().st_mode & 0o777), "not the mode of a folder of the user's"


def test_numbers_as_json_has_them(folder):
    numbers = {
        "scalar": np.float64(1.5),
        "count": np.int64(7),
        "flag": np.bool_(True),
        "array": np.arange(6).reshape(2, 3),
        "pair": (1, 2.5),
        "nested": {"text": "a µ", "none": None, "list": [np.float32(0.5), {"deep": np.ones(1)}]},
        "torch as numpy": torch.ones(2).numpy(),
        "zero-dimensional": np.array(3.0),
    }
    femnn.save_results(folder, numbers)
    assert read(folder) == {
        "scalar": 1.5,
        "count": 7,
        "flag": True,
        "array": [[0, 1, 2], [3, 4, 5]],
        "pair": [1, 2.5],
        "nested": {"text": "a µ", "none": None, "list": [0.5, {"deep": [1.0]}]},
        "torch as numpy": [1.0, 1.0],
        "zero-dimensional": 3.0,
    }
    assert tree(folder) == ["results.json"]


def test_what_json_has_not_becomes_null(folder):
    femnn.save_results(folder, {"a": np.nan, "b": float("inf"), "c": np.array([1.0, -np.inf])})
    assert read(folder) == {"a": None, "b": None, "c": [1.0, None]}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1, 2], "numbers is a list, wanted a dictionary"),
        ({"a": {"b": [0, object()]}}, r"numbers\['a'\]\['b'\]\[1\] is a object, wanted a number"),
        ({"a": 1j}, r"numbers\['a'\] is a complex"),
        ({"a": np.array([1j])}, r"numbers\['a'\]\[0\] is a complex"),
        ({1: 2}, "has the key 1, wanted strings"),
        ({"a": torch.ones(1)}, "is a Tensor"),
        ({"a": Path("x")}, "is a "),
    ],
)
def test_numbers_that_json_cannot_hold(folder, u, numbers, message):
    with pytest.raises(TypeError, match=message):
        femnn.save_results(folder, numbers, networks={"law": femnn.MLP(1, 1)}, fields=u)
    assert not folder.parent.exists()


def _broken():
    net = femnn.MLP(1, 1)
    torch.nn.init.constant_(next(net.parameters()), torch.nan)
    return net


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"networks": [femnn.MLP(1, 1)]}, TypeError, "networks is a list, wanted a dictionary"),
        ({"networks": {"law": "x"}}, TypeError, r"networks\['law'\] is a str, wanted a torch"),
        ({"networks": {"a/b": femnn.MLP(1, 1)}}, ValueError, "the name 'a/b', wanted one that"),
        ({"networks": {"": femnn.MLP(1, 1)}}, ValueError, "the name ''"),
        ({"networks": {"..": femnn.MLP(1, 1)}}, ValueError, r"the name '\.\.'"),
        ({"networks": {"law": _broken()}}, ValueError, r"networks\['law'\] is NaN or infinite"),
        ({"fields": [np.ones(3)]}, TypeError, "fields holds a ndarray, wanted Functions"),
        ({"figure": "figure.png"}, TypeError, "figure is a str, wanted a matplotlib figure"),
    ],
)
def test_wrong_arguments_write_nothing(folder, change, error, message):
    with pytest.raises(error, match=message):
        femnn.save_results(folder, {"error": 1.0}, **change)
    assert not folder.parent.exists()


def test_fields_that_vtk_cannot_hold(folder, u):
    space = u.function_space()
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 1), u)
    at_points = fd.Function(kappa.function_space())
    other = fd.Function(fd.FunctionSpace(fd.UnitSquareMesh(2, 2), "P", 1), name="other")
    mixed = fd.Function(space * space, name="mixed")
    for wrong, error, message in [
        ([kappa], TypeError, "holds a NeuralCoefficient.*femnn.evaluate"),
        ([at_points], TypeError, "values at quadrature points"),
        ([u, fd.Function(space, name="u")], ValueError, "the names .*give each its own"),
        ([u, other], ValueError, "several meshes"),
        ([mixed], TypeError, "mixed has several parts"),
    ]:
        with pytest.raises(error, match=message):
            femnn.save_results(folder, {}, fields=wrong)
    assert not folder.parent.exists()


@pytest.mark.parallel([1, 2])
def test_a_function_makes_the_figure_on_rank_zero_alone(folder):
    calls = []

    def draw():
        calls.append(MPI.COMM_WORLD.rank)
        return plt.subplots()[1]  # axes serve as well

    before = plt.get_fignums()
    femnn.save_results(folder, {}, figure=draw)
    assert calls == ([0] if MPI.COMM_WORLD.rank == 0 else [])
    assert plt.get_fignums() == before, "the figure was left open"


@pytest.mark.parallel([1, 2])
def test_a_figure_that_fails_costs_nothing_else(folder, u):
    def draw():
        raise KeyError("no such run")

    with pytest.raises(KeyError, match="no such run"):
        femnn.save_results(folder, {"error": 1}, figure=draw, networks={"law": femnn.MLP(1, 1)})
    MPI.COMM_WORLD.barrier()
    assert tree(folder) == ["law.safetensors", "results.json"]


@pytest.mark.parallel(2)
def test_what_one_rank_is_given_wrong_fails_on_all(folder, u):
    fields = [u] if MPI.COMM_WORLD.rank == 0 else ["u"]
    with pytest.raises((TypeError, RuntimeError), match=r"holds a str|another rank"):
        femnn.save_results(folder, {}, fields=fields)
    assert not folder.parent.exists()


@pytest.mark.parallel([1, 2])
def test_a_second_run_takes_the_place_of_the_first(folder, u):
    femnn.save_results(folder, {"run": 1}, fields=[u])
    MPI.COMM_WORLD.barrier()
    if MPI.COMM_WORLD.rank == 0:
        (folder / "fields" / "old").touch()
    u.rename("later")
    femnn.save_results(folder, {"run": 2}, fields=u)
    MPI.COMM_WORLD.barrier()
    assert read(folder) == {"run": 2}
    assert tree(folder) == ["fields", "results.json"]
    assert "old" not in tree(folder / "fields")


@pytest.mark.parallel([1, 2])
def test_fields_that_one_rank_cannot_write_leave_the_old_ones(folder, u, monkeypatch):
    comm = MPI.COMM_WORLD
    femnn.save_results(folder, {"run": 1}, fields=[u])
    comm.barrier()

    class Broken:
        def __init__(self, path):
            self.path = path

        def write(self, *fields):
            if comm.rank == comm.size - 1:
                Path(self.path).write_text("half")
                raise OSError("the disk is full")

    monkeypatch.setattr(results.fd, "VTKFile", Broken)
    with pytest.raises((OSError, RuntimeError), match=r"disk is full|another rank could not"):
        femnn.save_results(folder, {"run": 2}, fields=[u])
    comm.barrier()
    assert "half" not in (folder / "fields" / "fields.pvd").read_text()
    assert tree(folder) == ["fields", "results.json"]
    assert read(folder) == {"run": 1}


def test_nothing_is_recorded(folder, u):
    from firedrake.adjoint import continue_annotation, get_working_tape

    continue_annotation()
    femnn.save_results(folder, {}, fields=u)
    assert get_working_tape().get_blocks() == []


@pytest.mark.parallel([1, 2, 3])
def test_fields_go_to_a_file_that_all_ranks_write_and_back(tmp_path):
    """Firedrake's CheckpointFile takes a field that was trained."""
    path = str(MPI.COMM_WORLD.bcast(tmp_path) / "fields.h5")
    mesh = fd.UnitSquareMesh(5, 4, name="square")
    x, y = fd.SpatialCoordinate(mesh)
    m = fd.Function(fd.FunctionSpace(mesh, "P", 1), name="m")
    adjoint.continue_annotation()
    J = femnn.assemble((m - x * y) ** 2 * fd.dx)
    adjoint.pause_annotation()
    femnn.fit(adjoint.ReducedFunctional(J, adjoint.Control(m)), maxiter=2, progress=False)
    with fd.CheckpointFile(path, "w") as file:
        file.save_mesh(mesh)
        file.save_function(m)
    with fd.CheckpointFile(path, "r") as file:
        again = file.load_function(file.load_mesh("square"), "m")
    places = np.random.default_rng(0).uniform(0, 1, (20, 2))
    expected = femnn.Stations(mesh, places)(m).array
    found = femnn.Stations(again.function_space().mesh(), places)(again).array
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.ptp(expected) > 0
