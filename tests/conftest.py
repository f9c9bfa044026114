"""Fixtures for all tests."""

import pytest


@pytest.fixture(autouse=True)
def clean_tape():
    """Each test starts and ends with an empty tape that does not record."""
    from firedrake.adjoint import get_working_tape, pause_annotation

    pause_annotation()
    get_working_tape().clear_tape()
    yield
    pause_annotation()
    get_working_tape().clear_tape()
