"""femnn: neural networks inside Firedrake finite element models, trained by adjoints.

The public names stand in ``__init__.pyi``. They are imported when they are first used, so that
the networks and their evaluation work where only torch and numpy are installed.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
