"""Changes of expressions that reach the operands of neural coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ufl

from femnn.coefficient.coefficient import neural_coefficients
from femnn.coefficient.rules import of_operands


def changed(f: Any, change: Callable[[Any], Any]) -> Any:
    """What ``change`` makes of a form or an expression, and of the operands of its coefficients.

    For algorithms of UFL or Irksome that take a coefficient for one symbol; ``ufl.replace`` and
    UFL's derivatives reach the operands themselves (``rules.py``).

    Parameters
    ----------
    f
        A form or an expression.
    change
        Takes and gives a form or an expression; must leave neural coefficients as they are.
    """
    laws = {law: of_operands(law, map(change, law.operands)) for law in neural_coefficients(f)}
    f = change(f)
    return ufl.replace(f, laws) if laws else f
