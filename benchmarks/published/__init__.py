"""The problems of Mitusch, Funke and Kuchta (2021), by femnn and by the paper's own method."""

import os

os.environ.setdefault("FIREDRAKE_DISABLE_OPTIONS_LEFT", "1")  # argv is the problems', not PETSc's
