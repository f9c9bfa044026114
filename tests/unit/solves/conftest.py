"""What the tests of solves share."""

import pytest
from firedrake import FunctionSpace, UnitSquareMesh

from tests.unit.solves.diffusion import poisson, taylor_order, values_and_gradients


@pytest.fixture(scope="module")
def V():
    return FunctionSpace(UnitSquareMesh(8, 8), "CG", 1)


@pytest.fixture(scope="module")
def exact(V):
    """Values and gradients with LU, for kappa(u) and kappa(x)."""
    results = {}
    for nonlinear in (True, False):
        Jhat, kappa, *_ = poisson(V, nonlinear=nonlinear)
        results[nonlinear] = values_and_gradients(Jhat, kappa)
        assert taylor_order(Jhat, kappa) > 1.95
    return results
