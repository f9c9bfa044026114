"""Fixtures for all tests, and what is said of failures and of tests that are cut off."""

import faulthandler
import gc
import itertools
import os
import signal
import sys
import time

import pytest

_exit_status = 0


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Where the run is ended from outside, every process says where it stands."""
    if not hasattr(config, "workerinput"):  # with -n, reports come together in one process
        config.pluginmanager.register(_Watch(config))
    # Not Python's handler alone, which waits where MPI does. Output is not captured yet.
    stream = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")
    faulthandler.register(signal.SIGTERM, stream, all_threads=False, chain=True)
    config.add_cleanup(stream.close)
    config.add_cleanup(lambda: faulthandler.unregister(signal.SIGTERM))


class _Watch:
    """Prints failures when they happen, and which tests run when the process is to end."""

    def __init__(self, config):
        self._config = config
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._started = {}
        signal.signal(signal.SIGTERM, self._end)

    def pytest_runtest_logstart(self, nodeid):
        self._started[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid):
        self._started.pop(nodeid, None)

    def pytest_runtest_logreport(self, report):
        self._print(report)

    def pytest_collectreport(self, report):
        self._print(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self):
        self._config.option.tbstyle = "no"  # not once more at the end

    def _print(self, report):
        if not report.failed:
            return
        self._terminal.ensure_newline()
        self._terminal.write_sep("_", f"{report.when}: {report.nodeid}", red=True)
        for text in (report.longreprtext, report.capstdout, report.capstderr, report.caplog):
            if text:
                self._terminal.write_line(text)
        self._terminal.flush()

    def _end(self, *_):
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled():
            self._terminal.ensure_newline()
            for nodeid, start in self._started.items():
                self._terminal.write_line(f"running for {time.monotonic() - start:.0f} s: {nodeid}")
            self._terminal.flush()
        pytest.exit("ended by SIGTERM", returncode=pytest.ExitCode.INTERRUPTED)


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


@pytest.fixture(scope="session", autouse=True)
def frozen_start():
    """What imports have left is looked through once, not at each collection.

    And collections are rare: by Python's own measure they took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def known_compiler():
    """PyOP2 would run the compiler twice for each kernel that is loaded, to ask for its version."""
    import firedrake  # noqa: F401
    import petsctools
    from pyop2.compilation import set_default_compiler

    set_default_compiler(petsctools.get_petscvariables()["CC"])


_tests_done = itertools.count(1)


@pytest.fixture
def same_garbage():
    """PETSc's objects are destroyed by all ranks together, at the same place in the program.

    What outlives a test is in caches and is set aside: looking through all of it took as long as
    the tests.  Every so often it is looked through too.
    """
    yield
    if _ranks() == 1:
        return
    from firedrake import COMM_WORLD
    from firedrake.petsc import PETSc

    if next(_tests_done) % 20 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    PETSc.garbage_cleanup(COMM_WORLD)


@pytest.fixture(autouse=True)
def clean_tape(same_garbage):
    """Each test starts and ends with an empty tape that does not record."""
    from firedrake.adjoint import get_working_tape, pause_annotation

    pause_annotation()
    get_working_tape().clear_tape()
    yield
    pause_annotation()
    get_working_tape().clear_tape()


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
