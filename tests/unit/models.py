"""Pieces that small models in several modules of tests are made of."""

from firedrake import *

import femnn


def law(n_inputs=1, seed=1):
    """A positive network."""
    return femnn.MLP(n_inputs, 6, 1, output="softplus", seed=seed)


def square(comm, n=6, degree=1):
    """On a unit square: the space, an unknown, a test function, the coordinates."""
    mesh = UnitSquareMesh(n, n - 1, comm=comm)
    V = FunctionSpace(mesh, "CG", degree)
    return V, Function(V, name="u"), TestFunction(V), *SpatialCoordinate(mesh)
