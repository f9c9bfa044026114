"""Derivatives through laws on facets, and the same numbers on any number of ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from tests.verification import facets, problems

IDS = [f"{model.__name__}-{name}" for model, name, _ in facets.CASES]
MODELS = list(dict.fromkeys(model for model, _, _ in facets.CASES))


@pytest.mark.parametrize(("model", "name", "which"), facets.CASES, ids=IDS)
def test_gradient_is_of_second_order(model, name, which):
    here, away = problems.taylor_orders(model, which)
    assert here > 1.95, f"{name}: order {here} where the tape was recorded"
    assert away > 1.95, f"{name}: order {away} away from there"


@pytest.mark.parametrize(("model", "name", "which"), facets.CASES, ids=IDS)
def test_second_derivatives(model, name, which):
    for order, tangent_error, asymmetry in problems.second_order(model, which):
        assert order > 2.8, f"{name}: order {order} with the Hessian's action"
        assert tangent_error < 1e-10, f"{name}: the tangent-linear model is not the gradient's"
        assert asymmetry < 1e-9, f"{name}: the Hessian is not symmetric"


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_value_and_gradient_do_not_depend_on_ranks(model):
    value, gradient = problems.value_and_gradient(model, MPI.COMM_WORLD)
    alone, gradient_alone = problems.value_and_gradient(model, MPI.COMM_SELF)
    assert value == pytest.approx(alone, rel=1e-10)
    assert np.linalg.norm(gradient - gradient_alone) < 1e-10 * np.linalg.norm(gradient_alone)
