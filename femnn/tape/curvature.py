"""Products with second derivatives of a functional: Gauss and Newton's part, and the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyadjoint import AdjFloat, Block, Tape
from pyadjoint.drivers import compute_tlm
from pyadjoint.enlisting import Enlist
from pyadjoint.tape import stop_annotating

from femnn.tape.counts import count
from femnn.tape.replay import Replay


def gauss_newton_product(
    J: AdjFloat,
    controls: Any,
    direction: Any,
    tape: Tape,
    terms: Sequence[AdjFloat] | None = None,
) -> Any:
    """The product of the Gauss-Newton matrix of a functional with a direction.  Collective.

    With the model u(m), the last fields (or vectors of observations) before the functional is a
    number, J = L(u(m)), the matrix is (du/dm)^T L'' (du/dm): that of sums of squares is the
    Gauss-Newton matrix, and of any convex L positive semidefinite.  One tangent-linear and one
    adjoint run of the model; ``derivative()`` comes again before a product with the whole Hessian.

    Parameters
    ----------
    J
        The functional.
    controls
        The controls, a :class:`pyadjoint.Control` or several.
    direction
        A change of each control, of its kind.
    tape
        The tape.
    terms
        Numbers behind the functional, whose sum counts in its place; the functional by default.

    Returns
    -------
    As ``ReducedFunctional.hessian``: one for each control, in the type of its derivative.

    References
    ----------
    N. N. Schraudolph, Neural Computation 14 (2002), for the generalised matrix.
    """
    count("tangent")
    count("adjoint")
    compute_tlm(J, Enlist(controls), direction, tape)
    return product_along_tangent(J, controls, tape, terms)


def product_along_tangent(
    J: AdjFloat, controls: Any, tape: Tape, terms: Sequence[AdjFloat] | None = None
) -> Any:
    """The product with the direction along which the tangent-linear model was run last.

    Collective, and not counted; see :func:`gauss_newton_product`.
    """
    controls = Enlist(controls)
    tape.reset_variables(("adjoint", "hessian"))
    for term in (J,) if terms is None else terms:
        term.block_variable.adj_value, term.block_variable.hessian_value = 1.0, 0.0
    with (
        stop_annotating(),
        tape.marked_control_dependents(controls),
        tape.marked_functional_dependencies(J),
    ):
        _backwards(tape)
    return controls.delist([control.get_hessian() for control in controls])


def _backwards(tape: Tape) -> None:
    manager = tape._checkpoint_manager
    if isinstance(manager, Replay):
        manager.evaluate_second_order(gauss_newton, markings=True)
        return
    for block in reversed(tape.get_blocks()):
        gauss_newton(block, markings=True)


def gauss_newton(block: Block, markings: bool) -> None:
    """A block's part: all second derivatives where numbers lead to the functional, else none.

    Parameters
    ----------
    block
        The block; its outputs have Hessian values, and numbers behind the model adjoint values.
    markings
        As for pyadjoint's sweeps.
    """
    outputs = block.get_outputs()
    if all(isinstance(bv.output, AdjFloat) and bv.adj_value is not None for bv in outputs):
        block.evaluate_adj(markings=markings)
        # A loss that is not convex has a curvature of its own for this.
        second_order = getattr(block, "evaluate_gauss_newton", block.evaluate_hessian)
        second_order(markings=markings)
        return
    nodes = list(dict.fromkeys([*outputs, *block.get_dependencies()]))
    known = [bv.adj_value for bv in nodes]
    for bv in nodes:
        bv.adj_value = bv.hessian_value if bv in outputs else None
    block.evaluate_adj(markings=markings)
    block.reset_adjoint_state()
    for bv, value in zip(nodes, known, strict=True):
        if bv not in outputs and bv.adj_value is not None:
            bv.add_hessian_output(bv.adj_value)
        bv.adj_value = value
