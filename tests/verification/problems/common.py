"""What the problems share."""

from collections.abc import Callable

from firedrake import *

from tests.verification.derivatives import model

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
PROBLEMS: list[Callable] = []


def controls(*names: str, seed: int = 0):
    """Add a function to the problems; parameters as for ``derivatives.model``."""

    def add(function):
        function.place = function.__module__.rpartition(".")[2]
        PROBLEMS.append(model(*names, seed=seed)(function))
        return function

    return add


def square(comm, degree=1, n=8):
    mesh = UnitSquareMesh(n, n - 1, comm=comm)
    V = FunctionSpace(mesh, "CG", degree)
    return mesh, V, Function(V, name="u"), TestFunction(V)
