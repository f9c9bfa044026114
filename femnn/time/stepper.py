"""Irksome's Runge-Kutta methods with networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations, stop_annotating
from ufl.algorithms.analysis import extract_type
from ufl.classes import Label, Variable
from ufl.corealg.traversal import unique_pre_traversal

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.fields.boundary import BoundaryValues
from femnn.fields.copies import dependencies_of
from femnn.parallel import all_ranks
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
        If a neural coefficient stands under ``Dt`` or in a boundary value, or Irksome cannot
        impose the boundary values with this tableau.
    ValueError
        If ``bc_type`` is unknown.

    Notes
    -----
    With ``bc_type="ODE"`` boundary values move with ``t`` alone: those of a Function or Constant
    that is assigned anew between steps do not.  As with Irksome's stepper, ``t`` is the user's to
    advance.  Irksome must be imported before the first form is made.  Gradients with respect to
    weights, initial values, sources and boundary values go through boundary values that depend
    on ``u0``, too.

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
        _check(F, bcs, bc_type)
        self.u0, self.dt, self.butcher_tableau = u0, dt, butcher_tableau
        tableaux = [butcher_tableau]
        if butcher_tableau.is_diagonally_implicit:
            tableaux = _one_by_one(butcher_tableau)
        starts = [u0] + [fd.Function(u0.function_space()) for _ in tableaux[1:]]
        F = _opened(F)
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
        from irksome import getForm
        from irksome.bcs import stage2spaces4bc
        from irksome.tools import get_stage_space

        whole = start.function_space()
        space = get_stage_space(whole, tableau.num_stages)
        unknown = fd.Function(space, name=f"stages of {start.name()}")
        form, _ = getForm(F, tableau, t, dt, start, unknown, bc_type="ODE")
        self.start = start
        self._values = []
        conditions = []
        for bc in bcs:
            spaces = [stage2spaces4bc(bc, whole, space, i) for i in range(tableau.num_stages)]
            values = _rates_at_stages(bc, tableau, t, dt)
            if bc_type == "DAE" and bc._original_arg != 0:
                self._values.append(_ValuesAtStages(bc, tableau, t, dt, start, spaces))
                values = self._values[-1].rates
            conditions += [bc.reconstruct(V=V, g=g) for V, g in zip(spaces, values, strict=True)]
        problem = NeuralVariationalProblem(_closed(form), unknown, conditions)
        self.solver = NeuralVariationalSolver(problem, **options)
        parts, fields = _parts(unknown), len(whole)
        self.slopes = [parts[i : i + fields] for i in range(0, len(parts), fields)]

    def solve(self) -> None:
        for values in self._values:
            values.update()
        self.solver.solve()


def _rates_at_stages(bc: fd.DirichletBC, tableau: Any, t: Any, dt: Any) -> list[Any]:
    """The boundary values' derivatives in time at the stages' times."""
    from irksome import Dt, expand_time_derivatives

    if bc._original_arg == 0:
        return [0] * tableau.num_stages
    rate = expand_time_derivatives(Dt(ufl.as_ufl(bc._original_arg)), t=t, timedep_coeffs=())
    return [ufl.replace(rate, {t: t + float(c) * dt}) for c in tableau.c]


class _ValuesAtStages:
    """Stage derivatives at a boundary with which the stages have the boundary values.

    With values g_j at the stages' times, sum_j (A^-1)_ij (g_j - u0) / dt.  The tape follows u0,
    and values that are a Function or a Constant; those of expressions are kept as they were.
    """

    def __init__(
        self,
        bc: fd.DirichletBC,
        tableau: Any,
        t: Any,
        dt: Any,
        start: fd.Function,
        spaces: Sequence[Any],
    ):
        from irksome.bcs import get_sub

        if bc.function_space().component is not None:
            raise NotImplementedError(
                f"TimeStepper: the boundary values on {bc.sub_domain} are those of one component "
                "of a vector: give all its components, or bc_type='ODE'."
            )
        try:
            self._inverse = np.linalg.inv(tableau.A)
        except np.linalg.LinAlgError as error:
            raise NotImplementedError(
                f"TimeStepper: {tableau} has an explicit stage, which cannot be made to have "
                "boundary values: give bc_type='ODE'."
            ) from error
        self._dt, self._given = dt, bc._original_arg
        self._start = get_sub(start, bc._indices)
        times = [t + float(c) * dt for c in tableau.c]
        at_times = [ufl.replace(ufl.as_ufl(self._given), {t: time}) for time in times]
        self._sources = [BoundaryValues(bc.reconstruct(g=g)) for g in at_times]
        self._on_tape = self._given is not t and self._sources[0].on_tape
        self._kept: list[Any] = [None] * len(times)
        self.rates = [fd.Function(V) for V in spaces]

    def update(self) -> None:
        """Take the rates of the present time, start and boundary values.  Collective."""
        values = [self._value(j) for j in range(len(self.rates))]
        for rate, weights in zip(self.rates, self._inverse, strict=True):
            terms = zip(weights, values, strict=True)
            rate.assign(sum(float(w) / self._dt * (g - self._start) for w, g in terms))

    def _value(self, j: int) -> fd.Function:
        if self._on_tape:
            value = fd.Function(self._start.function_space())
            return value.assign(self._given)
        with stop_annotating():
            self._sources[j].load(None, None)
            present, known = self._sources[j].value, self._kept[j]
            same = known is not None and np.array_equal(known.dat.data_ro, present.dat.data_ro)
            if not all_ranks(present.comm, same):  # a new one: the tape holds the last
                self._kept[j] = present.copy(deepcopy=True)
        return self._kept[j]


class _Open(Variable):
    """A neural coefficient as an operator on its operands, which UFL's algorithms then reach."""

    __slots__ = ("coefficient",)

    def __init__(self, coefficient: NeuralCoefficient, inputs: Any = None, label: Any = None):
        super().__init__(coefficient.inputs if inputs is None else inputs, label or Label())
        self.coefficient = coefficient

    @property
    def ufl_shape(self) -> tuple[int, ...]:
        return self.coefficient.ufl_shape

    def _ufl_expr_reconstruct_(self, inputs: Any, label: Label) -> _Open:
        return _Open(self.coefficient, inputs, label)

    def closed(self) -> NeuralCoefficient:
        """The coefficient, or one of the same network with the present operands."""
        inputs, old = self.ufl_operands[0], self.coefficient
        if set(dependencies_of(inputs)) == set(old.dependencies):
            return old
        nodal = {"space": old.function_space()}
        at_points = {"degree": old.degree, "measure": old.measure, "shape": old.ufl_shape}
        new = NeuralCoefficient(
            old.net,
            inputs,
            mesh=old.mesh,
            chunk_size=old.evaluator.chunk_size,
            name=old.name(),
            **(nodal if old.degree is None else at_points),
        )
        new.__dict__["has_default_degree"] = old.has_default_degree
        return new


def _opened(form: ufl.Form) -> ufl.Form:
    return ufl.replace(form, {c: _Open(c) for c in neural_coefficients(form)})


def _closed(form: ufl.Form) -> ufl.Form:
    integrands = [integral.integrand() for integral in form.integrals()]
    nodes = [n for e in integrands for n in unique_pre_traversal(e) if isinstance(n, _Open)]
    return ufl.replace(form, {node: node.closed() for node in dict.fromkeys(nodes)})


def _check(F: ufl.Form, bcs: Sequence, bc_type: str) -> None:
    try:
        from irksome.ufl.deriv import TimeDerivative
    except ImportError as error:
        raise ImportError(
            "femnn.TimeStepper needs Irksome, which is not installed: pip install irksome"
        ) from error
    for derivative in extract_type(F, TimeDerivative):
        for found in neural_coefficients(derivative):
            raise NotImplementedError(
                f"TimeStepper: {found.name()} stands under Dt. Write the chain rule instead: for "
                f"Dt(k), with k a network of u, k.slope[0] * Dt(u)."
            )
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


def _one_by_one(tableau: Any) -> list[Any]:
    """A diagonally implicit tableau's stages as tableaux of one stage each."""
    from irksome.tableaux.ButcherTableaux import ButcherTableau

    one = np.ones(1)
    return [
        ButcherTableau(np.array([[tableau.A[i, i]]]), one, None, np.array([c]), 1, None, None)
        for i, c in enumerate(tableau.c)
    ]


def _parts(u: fd.Function) -> tuple[fd.Function, ...]:
    """The fields of a mixed Function, as the tape follows them, or the Function itself."""
    return (u,) if len(u.function_space()) == 1 else u.subfunctions
