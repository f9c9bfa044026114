"""Derivatives of UFL forms and expressions, carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering
from ufl.algorithms.apply_derivatives import apply_derivatives
from ufl.algorithms.map_integrands import map_integrand_dags
from ufl.corealg.multifunction import MultiFunction


def flatten(operands: Sequence[Any]) -> Any:
    """All components of the operands as one UFL vector."""
    components = []
    for op in operands:
        if op.ufl_shape == ():
            components.append(op)
        else:
            components += [op[index] for index in np.ndindex(op.ufl_shape)]
    return ufl.as_vector(components)


def expression_derivative(expression: Any, u: Any, direction: Any) -> Any:
    """The Gateaux derivative of an expression, with all derivatives carried out."""
    derivative = ufl.derivative(expression, u, direction)
    return apply_derivatives(apply_algebra_lowering(derivative))


def entry_derivative(expression: Any, constant: fd.Constant, index: tuple[int, ...]) -> Any:
    """The derivative of an expression or form with respect to one entry of a Constant."""
    entry = ufl.variable(constant[index] if index else constant)
    entries = np.empty(constant.ufl_shape, dtype=object)
    for i in np.ndindex(constant.ufl_shape):
        entries[i] = entry if i == index else constant[i]
    substitute = ufl.as_tensor(entries.tolist()) if index else entry
    derivative = ufl.diff(ufl.replace(expression, {constant: substitute}), entry)
    return map_integrand_dags(
        _WithoutVariables(), apply_derivatives(apply_algebra_lowering(derivative))
    )


class _WithoutVariables(MultiFunction):
    """As ``ufl.algorithms.strip_variables``, which fails where Irksome came before Firedrake."""

    expr = MultiFunction.reuse_if_untouched

    def variable(self, o: Any, expression: Any, label: Any) -> Any:
        return expression
