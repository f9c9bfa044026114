"""How weighted residuals change with the controls: a row for each, by adjoint runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pyadjoint import AdjFloat, Tape
from pyadjoint.enlisting import Enlist

from femnn.tape.columns import marked
from femnn.tape.counts import count
from femnn.tape.sums import EntrywiseSum, cotangent


def residual_rows(
    J: AdjFloat,
    controls: Any,
    tape: Tape,
    losses: Mapping[EntrywiseSum, float],
    flat: Callable[[Sequence[Any]], np.ndarray],
) -> np.ndarray:
    """The rows whose products with themselves are the losses' Gauss-Newton matrix.  Collective.

    One adjoint run for each datum that has a weight, where :mod:`femnn.tape.columns` runs a
    tangent-linear model for each direction.  ``derivative()`` comes again before a product with the
    Hessian.

    Parameters
    ----------
    J, tape
        The functional and its tape, without a schedule.
    controls
        The controls, a :class:`pyadjoint.Control` or several.
    losses
        The losses in it, with the functional's derivative for each, which is not negative.
    flat
        Makes one vector, shape ``(n,)``, of a derivative for each control.  Collective.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_data, n)``: each residual's derivative times the root of its weight.
    """
    controls, rows = list(Enlist(controls)), []
    with marked(J, controls, tape):
        for block, factor in losses.items():
            roots = np.sqrt(factor * block.curvature())
            for place in np.flatnonzero(roots):
                seed = np.zeros_like(roots)
                seed[place] = roots[place]
                rows.append(flat(_derivatives(tape, controls, block.node, seed)))
    return np.stack(rows) if rows else np.empty((0, 0))


def _derivatives(tape: Tape, controls: Sequence[Any], node: Any, seed: np.ndarray) -> list[Any]:
    """The derivative for each control of a weighted sum of a value's numbers."""
    count("adjoint")
    tape.reset_variables(("adjoint",))
    node.adj_value = cotangent(node.output, seed)
    for block in reversed(tape.get_blocks()):
        block.evaluate_adj(markings=True)
    return [_derivative(control) for control in controls]


def _derivative(control: Any) -> Any:
    """As the control gives it, which warns where a datum knows nothing of it."""
    if control.block_variable.adj_value is None:
        return control.control._ad_init_zero(dual=True)
    return control.get_derivative()
