"""Changes of expressions that reach the operands of neural coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ufl

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients


def changed(f: Any, change: Callable[[Any], Any]) -> Any:
    """What ``change`` makes of a form or an expression, and of the operands of its coefficients.

    UFL sees a coefficient as one symbol, and does not know of its operands.

    Parameters
    ----------
    f
        A form or an expression.
    change
        Takes and gives a form or an expression; must leave neural coefficients as they are.
    """
    laws = {}
    for law in neural_coefficients(f):
        operands = [change(operand) for operand in law.operands]
        if any(new != old for new, old in zip(operands, law.operands, strict=True)):
            laws[law] = law.with_operands(*operands)
    return _replaced(change(f), laws)


def replace(f: Any, mapping: Mapping[Any, Any]) -> Any:
    """UFL's ``replace``, in the operands of neural coefficients too.

    Parameters
    ----------
    f
        A form or an expression.
    mapping
        What is replaced, and by what.
    """
    return changed(f, lambda expression: ufl.replace(expression, dict(mapping)))


def _replaced(f: Any, laws: dict[NeuralCoefficient, NeuralCoefficient]) -> Any:
    return ufl.replace(f, laws) if laws else f
