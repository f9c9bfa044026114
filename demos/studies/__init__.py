"""The larger demos, each a package: ``python -m demos.studies.NAME --help``."""

import os

os.environ.setdefault("FIREDRAKE_DISABLE_OPTIONS_LEFT", "1")  # argv is the studies', not PETSc's
