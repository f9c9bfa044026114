"""Small problems with networks in each place, for the tests of derivatives and of ranks.

Each function records its model on the tape and returns the functional and the controls.
"""

from tests.verification.problems import (
    cells,
    elements,
    evolution,
    facets,
    nodes,
    splitting,
    stepping,
)
from tests.verification.problems.common import PROBLEMS, TIGHT

__all__ = [
    "PROBLEMS",
    "TIGHT",
    "cells",
    "elements",
    "evolution",
    "facets",
    "nodes",
    "splitting",
    "stepping",
]
