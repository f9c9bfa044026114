"""Every place, gradient, tangent-linear model and Hessian; and the same on any number of ranks.

``python -m tests.verification`` prints what is measured here as a table.
"""

import numpy as np
import pytest
from firedrake.adjoint import Control, ReducedFunctional
from mpi4py import MPI

from tests.verification.derivatives import accuracy, accuracy_of, numbers_of, points, recorded
from tests.verification.problems import PROBLEMS

CASES = [(problem, control) for problem in PROBLEMS for control in problem.controls]
IDS = [f"{problem.__name__}-{control}" for problem, control in CASES]


def check(found):
    assert found.gradient > 1.95, "the remainder with the gradient is not of order 2"
    assert found.hessian > 2.8, "the remainder with the Hessian's action is not of order 3"
    assert found.tangent < 1e-10, "the tangent-linear model is not the gradient's"
    assert found.asymmetry < 1e-9, "the Hessian is not symmetric"


@pytest.mark.parametrize(("problem", "control"), CASES, ids=IDS)
def test_each_control(problem, control):
    here, away = accuracy_of(problem, control)
    check(here)
    check(away)


@pytest.mark.parallel([2, 3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.__name__)
def test_all_controls_on_ranks(problem):
    numbers, vectors = measured(problem, MPI.COMM_WORLD, checked=True)
    numbers_alone, vectors_alone = measured(problem, MPI.COMM_SELF)
    assert numbers == pytest.approx(numbers_alone, rel=1e-9)
    for vector, alone in zip(vectors, vectors_alone, strict=True):
        assert np.linalg.norm(vector - alone) < 1e-9 * np.linalg.norm(alone)
    everywhere = MPI.COMM_WORLD.allgather(b"".join(v.tobytes() for v in vectors))
    assert len(set(everywhere)) == 1, "derivatives for weights differ between ranks"


def measured(problem, comm, checked=False):
    J, controls = recorded(problem, comm)
    Jhat = ReducedFunctional(J, [Control(c) for c in controls])
    _, away = points(controls, problem.seed)
    if checked:
        check(accuracy(Jhat, away))
    return numbers_of(Jhat, away)
