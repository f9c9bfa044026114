"""Taylor tests of every gradient path, and the same numbers on any number of ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from tests.verification import problems

CASES = [
    (problems.kappa_of_u, "weights", 0),
    (problems.kappa_of_u, "source", 1),
    (problems.kappa_of_u, "boundary", 2),
    (problems.kappa_of_u, "constant", 3),
    (problems.kappa_of_x, "weights", 0),
    (problems.kappa_of_x, "source", 1),
    (problems.source_of_a_constant, "constant", 1),
    (problems.kappa_of_u_and_gradient, "weights", 0),
    (problems.kappa_of_u_and_gradient, "operand", 1),
    (problems.time_loop, "implicit", 0),
    (problems.time_loop, "explicit", 1),
    (problems.time_loop, "initial", 2),
    (problems.boundary_law, "weights", 0),
    (problems.boundary_law, "field", 1),
    (problems.interface_law, "weights", 0),
    (problems.interface_law, "operand", 1),
    (problems.nodal_values, "dirichlet", 0),
    (problems.nodal_values, "initial", 1),
    (problems.nodal_values, "elements", 2),
    (problems.nodal_values, "attribute", 3),
    (problems.torch_on_the_tape, "encoder", 0),
    (problems.torch_on_the_tape, "inside", 1),
    (problems.torch_on_the_tape, "attribute", 2),
    (problems.torch_on_the_tape, "constant", 3),
    (problems.several_coefficients, "shared", 0),
    (problems.several_coefficients, "vector", 1),
    (problems.several_coefficients, "boundary", 2),
]
IDS = [f"{model.__name__}-{name}" for model, name, _ in CASES]


@pytest.mark.parametrize(("model", "name", "which"), CASES, ids=IDS)
def test_gradient_is_of_second_order(model, name, which):
    here, away = problems.taylor_orders(model, which)
    assert here > 1.95, f"{name}: order {here} where the tape was recorded"
    assert away > 1.95, f"{name}: order {away} away from there"


@pytest.mark.parametrize(("model", "name", "which"), CASES, ids=IDS)
def test_second_derivatives(model, name, which):
    for order, tangent_error, asymmetry in problems.second_order(model, which):
        assert order > 2.8, f"{name}: order {order} with the Hessian's action"
        assert tangent_error < 1e-10, f"{name}: the tangent-linear model is not the gradient's"
        assert asymmetry < 1e-9, f"{name}: the Hessian is not symmetric"


@pytest.mark.parallel([1, 2, 3])
@pytest.mark.parametrize(
    "model",
    [
        problems.kappa_of_u,
        problems.kappa_of_x,
        problems.kappa_of_u_and_gradient,
        problems.time_loop,
        problems.several_coefficients,
        problems.boundary_law,
        problems.interface_law,
        problems.nodal_values,
        problems.torch_on_the_tape,
    ],
    ids=lambda m: m.__name__,
)
def test_value_and_gradient_do_not_depend_on_ranks(model):
    value, gradient = problems.value_and_gradient(model, MPI.COMM_WORLD)
    alone, gradient_alone = problems.value_and_gradient(model, MPI.COMM_SELF)
    assert value == pytest.approx(alone, rel=1e-10)
    assert np.linalg.norm(gradient - gradient_alone) < 1e-10 * np.linalg.norm(gradient_alone)
    everywhere = MPI.COMM_WORLD.allgather(gradient.tobytes())
    assert len(set(everywhere)) == 1, "the gradient differs between ranks"
