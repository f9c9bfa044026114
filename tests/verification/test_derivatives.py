"""Every place, gradient, tangent-linear model and Hessian; and the same on any number of ranks.

``python -m tests.verification`` prints what is measured here as a table.
"""

import numpy as np
import pytest
from mpi4py import MPI

from tests.verification.derivatives import Recording, accuracy, numbers_of
from tests.verification.problems import PROBLEMS

CASES = [(problem, control) for problem in PROBLEMS for control in problem.controls]
IDS = [f"{problem.__name__}-{control}" for problem, control in CASES]


@pytest.fixture(scope="module")
def recording(request):
    """A problem's model, recorded once for the tests of all its controls."""
    return Recording(request.param)


def check(found):
    assert found.gradient > 1.95, "the remainder with the gradient is not of order 2"
    assert found.hessian > 2.8, "the remainder with the Hessian's action is not of order 3"
    assert found.tangent < 1e-10, "the tangent-linear model is not the gradient's"
    assert found.asymmetry < 1e-9, "the Hessian is not symmetric"


@pytest.mark.parametrize(("recording", "control"), CASES, ids=IDS, indirect=["recording"])
def test_each_control(recording, control):
    """Away from where it was recorded; there, all controls together."""
    Jhat, _, away = recording.of(control)
    check(accuracy(Jhat, away))


@pytest.mark.parametrize("recording", PROBLEMS, ids=lambda p: p.__name__, indirect=True)
def test_all_controls(recording):
    for found in recording.accuracy(*recording.model.controls):
        check(found)


# One for each way in which ranks work together, for three ranks.
WAYS = [
    "kappa_of_u",
    "several_coefficients",
    "resistance_of_flow",
    "discontinuous",
    "prisms",
    "sphere",
    "time_loop",
    "interior_law",
    "upwind_law",
    "extruded_facets",
    "nodal_values",
    "torch_on_the_tape",
    "subdomains",
    "one_number_observed_at_points",
    "lie_at_quadrature_points",
    "coupled_stages",
    "adaptive_theta",
]


@pytest.fixture(scope="module")
def alone(request):
    """What one rank finds by itself for the problems that are tested; each rank does some."""
    items = [item for item in request.session.items if item.module is request.module]
    asked = {name for item in items if (name := item.callspec.params.get("name"))}
    own = [p for p in PROBLEMS if p.__name__ in asked][MPI.COMM_WORLD.rank :: MPI.COMM_WORLD.size]
    pieces = MPI.COMM_WORLD.allgather({p.__name__: caught(p) for p in own})
    return {name: found for piece in pieces for name, found in piece.items()}


def caught(problem):
    """What is found, or the error, which belongs to the problem's own test."""
    try:
        return measured(problem, MPI.COMM_SELF)
    except Exception as error:
        return RuntimeError(f"{problem.__name__} alone: {error!r}")


def measured(problem, comm):
    Jhat, _, away = Recording(problem, comm).of(*problem.controls)
    return numbers_of(Jhat, away)


@pytest.mark.parallel(2)
@pytest.mark.parametrize("name", [p.__name__ for p in PROBLEMS])
def test_all_controls_on_two_ranks(name, alone):
    check_ranks(name, alone[name])


@pytest.mark.parallel(3)
@pytest.mark.parametrize("name", WAYS)
def test_all_controls_on_three_ranks(name, alone):
    check_ranks(name, alone[name])


def check_ranks(name, found):
    """Values and derivatives are those of one rank, which the tests above compare and expand."""
    if isinstance(found, Exception):
        raise found
    (problem,) = (p for p in PROBLEMS if p.__name__ == name)
    numbers, vectors = measured(problem, MPI.COMM_WORLD)
    numbers_alone, vectors_alone = found
    assert numbers == pytest.approx(numbers_alone, rel=1e-9)
    for vector, alone in zip(vectors, vectors_alone, strict=True):
        assert np.linalg.norm(vector - alone) < 1e-9 * np.linalg.norm(alone)
    everywhere = MPI.COMM_WORLD.allgather(b"".join(v.tobytes() for v in vectors))
    assert len(set(everywhere)) == 1, "derivatives for weights differ between ranks"
