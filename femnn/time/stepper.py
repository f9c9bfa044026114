"""Irksome's Runge-Kutta methods with networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import ufl
from pyadjoint.tape import no_annotations
from ufl.algorithms.analysis import extract_type

from femnn.coefficient.coefficient import neural_coefficients
from femnn.fields.copies import check_split, dependencies_of
from femnn.time.stage_boundary import ValuesAtStages, rates_at_stages
from femnn.time.stages import one_by_one, stage_form
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.solver import NeuralVariationalSolver


class TimeStepper:
    """Implicit Runge-Kutta steps of Irksome, with neural coefficients; recorded on the tape.

    The stages are derivatives in time.  Those of diagonally implicit tableaux are solved for
    one after the other, those of other tableaux together.

    Parameters
    ----------
    F
        The semi-discrete residual, with ``irksome.Dt(u0)`` for the derivative in time.
    butcher_tableau
        A tableau of Irksome's, such as ``irksome.RadauIIA(2)``.
    t, dt
        Constants with the time at the start of a step and the step's length.
    u0
        The Function with the solution.
    bcs
        Dirichlet conditions on it; their values may be expressions of ``t``.
    bc_type
        ``"DAE"``: the stages have the boundary values at their times; ``"ODE"``: the stages
        are the values' derivatives in time.
    **kwargs
        To :class:`femnn.NeuralVariationalSolver`: ``solver_parameters``, ``appctx``, ...
        Null spaces are those of the stages' space.

    Attributes
    ----------
    solvers : list of NeuralVariationalSolver
        One for each stage of a diagonally implicit tableau; otherwise one.

    Raises
    ------
    ImportError
        If Irksome is not installed.
    NotImplementedError
        If a neural coefficient stands under ``Dt`` or in a boundary value, or the boundary values
        cannot be imposed with this tableau.
    TypeError
        If ``F`` is not a form with one test function.
    ValueError
        If ``bc_type`` is not known, or a part of a mixed ``u0`` stands as ``u0.subfunctions[i]``.

    Notes
    -----
    With ``bc_type="ODE"`` boundary values move with ``t`` alone: those of a Function or Constant
    that is assigned anew between steps do not.  As with Irksome's stepper, ``t`` is the user's to
    advance.  Irksome must be imported before the first form is made.  Gradients with respect to
    weights, initial values, sources and what boundary values are made of go through boundary
    values that depend on ``u0``, too.

    References
    ----------
    P. E. Farrell, R. C. Kirby, J. Marchena-Menendez: Irksome: automating Runge-Kutta
    time-stepping for finite element methods, ACM Trans. Math. Softw. 47 (2021).

    Examples
    --------
    >>> F = inner(Dt(u), v) * dx + kappa * inner(grad(u), grad(v)) * dx
    >>> stepper = TimeStepper(F, RadauIIA(2), t, dt, u, bcs)
    >>> for _ in range(100):
    ...     stepper.advance()
    ...     t.assign(float(t) + float(dt))
    """

    @no_annotations
    def __init__(
        self,
        F: ufl.Form,
        butcher_tableau: Any,
        t: Any,
        dt: Any,
        u0: fd.Function,
        bcs: Any = None,
        *,
        bc_type: str = "DAE",
        **kwargs: Any,
    ):
        bcs = [] if bcs is None else bcs if isinstance(bcs, (list, tuple)) else [bcs]
        _check_form(F, u0)
        _check_conditions(bcs, bc_type)
        self.u0, self.dt, self.butcher_tableau = u0, dt, butcher_tableau
        tableaux = [butcher_tableau]
        if butcher_tableau.is_diagonally_implicit:
            tableaux = one_by_one(butcher_tableau)
        starts = [u0] + [fd.Function(u0.function_space()) for _ in tableaux[1:]]
        self._stages = []
        for tableau, start in zip(tableaux, starts, strict=True):
            from_start = ufl.replace(F, {u0: start})
            stages = _Stages(from_start, tableau, t, dt, start, bcs, bc_type, kwargs)
            self._stages.append(stages)
        self.solvers = [stages.solver for stages in self._stages]

    def advance(self) -> None:
        """Take ``u0`` from ``t`` to ``t + dt``.  Collective.

        Raises
        ------
        firedrake.ConvergenceError
            If a solve fails; ``u0`` then keeps its value.
        """
        slopes: list[tuple[fd.Function, ...]] = []
        for i, stages in enumerate(self._stages):
            if i > 0:
                self._add(slopes, self.butcher_tableau.A[i], into=stages.start)
            stages.solve()
            slopes += stages.slopes
        self._add(slopes, self.butcher_tableau.b, into=self.u0)

    def _add(self, slopes: Sequence, weights: Sequence, into: fd.Function) -> None:
        """Into a Function: u0 + dt (the weighted sum of the slopes)."""
        for field, (target, value) in enumerate(zip(_parts(into), _parts(self.u0), strict=True)):
            terms = [
                float(weight) * self.dt * slope[field]
                for weight, slope in zip(weights, slopes, strict=False)
                if weight != 0
            ]
            target.assign(sum(terms, value))


class _Stages:
    """Stages that are solved for together."""

    def __init__(
        self,
        F: ufl.Form,
        tableau: Any,
        t: Any,
        dt: Any,
        start: fd.Function,
        bcs: Sequence[fd.DirichletBC],
        bc_type: str,
        options: dict,
    ):
        from irksome.bcs import stage2spaces4bc
        from irksome.tools import get_stage_space

        whole = start.function_space()
        space = get_stage_space(whole, tableau.num_stages)
        unknown = fd.Function(space, name=f"stages of {start.name()}")
        form = stage_form(F, tableau, t, dt, start, unknown)
        self.start = start
        self._values: list[ValuesAtStages] = []
        conditions = []
        for bc in bcs:
            spaces = [stage2spaces4bc(bc, whole, space, i) for i in range(tableau.num_stages)]
            if bc_type == "DAE" and bc._original_arg != 0:
                self._values.append(ValuesAtStages(bc, tableau, t, dt, start, spaces))
                rates = self._values[-1].rates
            else:
                rates = rates_at_stages(bc, tableau, t, dt)
            conditions += [bc.reconstruct(V=V, g=g) for V, g in zip(spaces, rates, strict=True)]
        problem = NeuralVariationalProblem(form, unknown, conditions)
        self.solver = NeuralVariationalSolver(problem, **options)
        parts, fields = _parts(unknown), len(whole)
        self.slopes = [parts[i : i + fields] for i in range(0, len(parts), fields)]

    def solve(self) -> None:
        for values in self._values:
            values.update()
        self.solver.solve()


def _check_form(F: ufl.Form, u0: fd.Function) -> None:
    """Refuse what is no semi-discrete residual, or has a network under ``Dt``."""
    try:
        from irksome.ufl.deriv import TimeDerivative
    except ImportError as error:
        raise ImportError(
            "femnn.TimeStepper needs Irksome, which is not installed: pip install irksome"
        ) from error
    if not isinstance(F, ufl.Form) or len(F.arguments()) != 1:
        raise TypeError(
            f"TimeStepper got F={F}: wanted a form with one test function, all terms on the left."
        )
    laws = (law.inputs for law in neural_coefficients(F))
    check_split(u0, (d for f in (F, *laws) for d in dependencies_of(f)))
    for derivative in extract_type(F, TimeDerivative):
        for found in neural_coefficients(derivative):
            raise NotImplementedError(
                f"TimeStepper: {found.name()} stands under Dt. Write the chain rule instead: for "
                f"Dt(k), with k a network of u, k.slope[0] * Dt(u)."
            )


def _check_conditions(bcs: Sequence, bc_type: str) -> None:
    """Refuse boundary conditions that cannot be given to the stages."""
    if bc_type not in ("DAE", "ODE"):
        raise ValueError(f"TimeStepper got bc_type={bc_type!r}: give 'DAE' or 'ODE'.")
    for bc in bcs:
        if not isinstance(bc, fd.DirichletBC):
            raise NotImplementedError(
                f"TimeStepper: bcs holds a {type(bc).__name__}: only DirichletBC is supported."
            )
        value = bc._original_arg
        for found in neural_coefficients(value) if isinstance(value, ufl.core.expr.Expr) else []:
            raise NotImplementedError(
                f"TimeStepper: {found.name()} stands in a boundary value. Assign its values to a "
                "Function before each step, and give that."
            )


def _parts(u: fd.Function) -> tuple[fd.Function, ...]:
    """The fields of a mixed Function, as the tape follows them, or the Function itself."""
    return (u,) if len(u.function_space()) == 1 else u.subfunctions
