"""What the problems share."""

from collections.abc import Callable

from firedrake import *

TIGHT = {"snes_rtol": 1e-12, "snes_atol": 1e-14}
PROBLEMS: list[Callable] = []


def controls(*names: str, seed: int = 0):
    """Add a function to the problems.

    Parameters
    ----------
    *names
        Of the controls that it returns.
    seed
        Of points and directions for weights: one for which the functional's second and third
        derivative are not nearly zero, as an order cannot be seen then.
    """

    def add(function):
        function.place = function.__module__.rpartition(".")[2]
        function.controls, function.seed = names, seed
        PROBLEMS.append(function)
        return function

    return add


def square(comm, degree=1, n=8):
    mesh = UnitSquareMesh(n, n - 1, comm=comm)
    V = FunctionSpace(mesh, "CG", degree)
    return mesh, V, Function(V, name="u"), TestFunction(V)
