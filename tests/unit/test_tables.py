"""Learned laws as CSV files."""

import csv
import os

import numpy as np
import pytest
import torch
from mpi4py import MPI

import femnn
from femnn.export import tables


def read(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float)


def test_a_law_of_one_input(tmp_path):
    net, path = femnn.MLP(1, 5, 1, input_range=(250, 320)), tmp_path / "new" / "kappa.csv"
    units = {"T": "K", "kappa": "W/(m K)"}
    femnn.save_table(net, path, {"T": (250, 320)}, ["kappa"], units=units)
    header, rows = read(path)
    assert header == ["T [K]", "kappa [W/(m K)]"]
    assert np.array_equal(rows[:, 0], np.linspace(250, 320, 101))
    expected = net(torch.from_numpy(rows[:, :1].copy())).detach().numpy()
    assert np.array_equal(rows[:, 1:], expected), "digits were lost"
    assert os.listdir(path.parent) == ["kappa.csv"]


def test_several_inputs_one_of_them_fixed(tmp_path):
    net, path = femnn.MLP(3, 5, 2), tmp_path / "law.csv"
    femnn.save_table(net, path, {"a": (0, 1), "b": 0.5, "c, d": (-1, 1)}, ["f", "g"], n=[2, 3])
    header, rows = read(path)
    assert header == ["a", "b", "c, d", "f", "g"]
    grid = [[a, 0.5, c] for a in (0, 1) for c in (-1, 0, 1)]
    assert np.array_equal(rows[:, :3], grid)
    expected = net(torch.tensor(grid, dtype=torch.float64)).detach().numpy()
    assert np.array_equal(rows[:, 3:], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranges": {"x": (1, 0), "y": 1}}, r"ranges\['x'\]=\(1, 0\), wanted a pair"),
        ({"ranges": {"x": (0, np.inf), "y": 1}}, "wanted a pair"),
        ({"ranges": {"x": (0, 1, 2), "y": 1}}, "wanted a pair"),
        ({"ranges": {"x": (0, 1)}}, "does not take the 1 inputs"),
        ({"n": 1}, "n=1, wanted a number of at least 2"),
        ({"n": [3]}, "one for each of the 2 inputs that are not fixed"),
        ({"n": 10_000}, "would give 100000000 rows, more than 10000000"),
        ({"outputs": ["f", "g"]}, "the network has 1 outputs, but outputs="),
        ({"outputs": ["x"]}, "must have different names"),
        ({"units": {"z": "m"}}, r"unknown: \['z'\]"),
        ({"ranges": {"x": (0, 1000), "y": 0}}, r"gives NaN or infinity at \[1000.0, 0.0\]"),
    ],
)
def test_wrong_arguments_write_nothing(change, message, tmp_path):
    class Exp(torch.nn.Module):
        def forward(self, x):
            return torch.exp(x[:, :1] * x[:, [1]].cos())

    given = {"ranges": {"x": (0, 1), "y": (0, 1)}, "outputs": ["f"], "n": 2, **change}
    with pytest.raises(ValueError, match=message):
        femnn.save_table(Exp(), tmp_path / "law.csv", **given)
    assert os.listdir(tmp_path) == []


def test_a_failing_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "law.csv"
    path.write_text("old")

    class Broken:
        def __init__(self, file, **options):
            self.file = file

        def writerow(self, row):
            self.file.write("half")

        def writerows(self, rows):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.csv, "writer", Broken)
    with pytest.raises(OSError, match="No space left"):
        femnn.save_table(femnn.MLP(1, 1), path, {"x": (0, 1)}, ["f"])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["law.csv"]


@pytest.mark.parallel([1, 2])
def test_rank_zero_writes(tmp_path):
    comm = MPI.COMM_WORLD
    path = comm.bcast(tmp_path, root=0) / "law.csv"
    femnn.save_table(femnn.MLP(1, 1), path, {"x": (0, 1)}, ["f"], n=3)
    assert len(read(path)[1]) == 3
    with pytest.raises(ValueError, match="lower < upper"):
        femnn.save_table(femnn.MLP(1, 1), path, {"x": (1, 0)}, ["f"])
