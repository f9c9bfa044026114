"""Fixtures for all tests."""

import gc
import os
import sys

import pytest

_exit_status = 0


@pytest.fixture(autouse=True)
def clean_tape():
    """Each test starts and ends with an empty tape that does not record."""
    from firedrake.adjoint import get_working_tape, pause_annotation

    pause_annotation()
    get_working_tape().clear_tape()
    yield
    pause_annotation()
    get_working_tape().clear_tape()


def _ranks():
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))


@pytest.fixture(scope="session", autouse=_ranks() > 1)
def kept_communicator():
    """PETSc's copy of the communicator lives for the whole session.

    It would go with the last object on it, and to make it anew is collective: ranks on which an
    object lives longer would not take part.
    """
    from firedrake import COMM_WORLD
    from firedrake.petsc import PETSc

    return PETSc.IS().createGeneral([0], comm=COMM_WORLD)


@pytest.fixture(autouse=_ranks() > 1)
def same_garbage():
    """PETSc's objects are destroyed by all ranks together, at the same place in the program."""
    yield
    from firedrake import COMM_WORLD
    from firedrake.petsc import PETSc

    gc.collect()
    PETSc.garbage_cleanup(COMM_WORLD)


def pytest_sessionfinish(session, exitstatus):
    """Keep the status for the end of the process."""
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """End all ranks at once, without PETSc's own finalisation.

    That waits for ever where one rank alone still holds an object, as the traceback of an
    error that a test has raised on one rank can make it.
    """
    if _ranks() > 1:
        from mpi4py import MPI

        sys.stdout.flush()
        sys.stderr.flush()
        MPI.Finalize()
        os._exit(_exit_status)
