"""What users get wrong before anything is computed: errors that say what came and what to do."""

import re

import pytest
import torch
from firedrake import *

import femnn

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def V():
    return FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)


def law(V, **options):
    return femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), Function(V), **options)


@pytest.mark.parametrize("degree", [2.5, -1])
def test_degrees_that_are_none(V, degree):
    with pytest.raises(ValueError, match=rf"degree {degree}: wanted a whole number"):
        law(V, degree=degree)


def test_a_measure_by_its_name(V):
    with pytest.raises(TypeError, match=r"measure='ds', a str: wanted a measure itself"):
        law(V, measure="ds")


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_seeds_that_are_none(seed):
    for make in (femnn.MLP, femnn.ConvexMLP):
        with pytest.raises(ValueError, match=rf"seed={seed}: wanted a whole number"):
            make(1, 3, 1, seed=seed)


@pytest.mark.parametrize("kind", [TestFunction, TrialFunction])
def test_arguments_as_operands(V, kind):
    with pytest.raises(TypeError, match=r"a test or trial function, which has no values"):
        femnn.NeuralCoefficient(femnn.MLP(1, 3, 1), 2 * kind(V))


def test_several_dtypes(V):
    net = torch.nn.Sequential(torch.nn.Linear(1, 2).double(), torch.nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"parameters of torch.float32 and torch.float64: give"):
        femnn.NeuralCoefficient(net, Function(V))


def problem(V, u):
    v = TestFunction(V)
    kappa = femnn.NeuralCoefficient(femnn.MLP(1, 3, 1, output="softplus"), u)
    return kappa * inner(grad(u), grad(v)) * dx - v * dx


def test_an_equation_that_is_none(V):
    u = Function(V)
    with pytest.raises(TypeError, match=r"solve got a Form for the equation: write F == 0, or a"):
        femnn.solve(problem(V, u), u, DirichletBC(V, 0, 1))


def test_conditions_on_other_spaces(V):
    u, W = Function(V), FunctionSpace(UnitSquareMesh(3, 3), "CG", 1)
    for space in (W, FunctionSpace(V.mesh(), "CG", 2)):
        with pytest.raises(ValueError, match=r"condition is on .* wanted the unknown's space"):
            femnn.solve(problem(V, u) == 0, u, DirichletBC(space, 0, 1))


def test_an_unknown_that_is_not_in_the_form(V):
    other = Function(V, name="other")
    with pytest.raises(ValueError, match=r"the unknown other does not stand in F: write F with"):
        femnn.solve(problem(V, Function(V)) == 0, other, DirichletBC(V, 0, 1))


def test_a_file_with_a_flipped_bit(tmp_path):
    path = tmp_path / "net.safetensors"
    femnn.save(femnn.MLP(1, 3, 1, seed=1), path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"is damaged: its weights are not those that were saved"):
        femnn.load(path)


def test_a_module_without_values_is_not_filled(tmp_path):
    path = tmp_path / "net.safetensors"
    femnn.save(femnn.MLP(1, 3, 1), path)
    with pytest.raises(ValueError, match=r"is on the meta device and has no values"):
        femnn.load(path, into=femnn.MLP(1, 3, 1).to("meta"))


@pytest.mark.parametrize("wrong", [{"ranges": [(0, 1)]}, {"outputs": "K"}])
def test_names_of_a_table(tmp_path, wrong):
    given = {"ranges": {"u": (0, 1)}, "outputs": ["K"], **wrong}
    with pytest.raises(TypeError, match=re.escape("wanted a dict with the range of each input")):
        femnn.save_table(femnn.MLP(1, 3, 1), tmp_path / "law.csv", **given)
    assert not any(tmp_path.iterdir())
