"""Equations as Firedrake's ``solve`` takes them."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any

import firedrake as fd
import ufl
from pyadjoint.tape import annotate_tape, stop_annotating

from femnn.fields.boundary import value_of
from femnn.fields.cofunctions import split_terms
from femnn.fields.copies import dependencies_of
from femnn.parallel import any_rank
from femnn.variational.block import Solves
from femnn.variational.problem import NeuralVariationalProblem
from femnn.variational.solver import solve_and_record

# Kept as long as a block on a tape uses it, or the unknown of which it was asked for again.
_kept: weakref.WeakValueDictionary[Hashable, Solves] = weakref.WeakValueDictionary()


def solve(
    equation: Any,
    u: fd.Function,
    bcs: Any = None,
    J: ufl.Form | None = None,
    Jp: ufl.Form | None = None,
    form_compiler_parameters: dict | None = None,
    **kwargs: Any,
) -> fd.Function:
    """Firedrake's ``solve`` for problems with neural coefficients.  Collective.

    Calls with the same equation, unknown, boundary conditions and options share one solver and one
    matrix, as long as a tape has recorded one of them; without a tape from the second call on, as
    long as there is the unknown.

    Parameters
    ----------
    equation
        ``F == 0``, or ``a == L`` where the coefficients do not depend on the unknown.  ``F`` and
        ``L`` may hold assembled Cofunctions.
    u
        The unknown; its value is the initial guess.
    bcs, J, Jp, form_compiler_parameters
        As for :class:`NeuralVariationalProblem`.
    **kwargs
        ``restrict`` as for :class:`NeuralVariationalProblem`, ``bounds`` as for
        :meth:`NeuralVariationalSolver.solve`, all others as for that class:
        ``solver_parameters``, ``nullspace``, ...

    Returns
    -------
    firedrake.Function
        ``u``.

    Raises
    ------
    firedrake.ConvergenceError
        If the solve fails; ``u`` then keeps its value.
    TypeError
        If the equation is neither ``F == 0`` nor ``a == L``.
    """
    if not isinstance(equation, ufl.equation.Equation):
        raise TypeError(
            f"solve got a {type(equation).__name__} for the equation: write F == 0, or a == L."
        )
    annotate = annotate_tape(kwargs)
    tag, bounds = (kwargs.pop(name, None) for name in ("ad_block_tag", "bounds"))
    bcs = [] if bcs is None else list(bcs) if isinstance(bcs, (list, tuple)) else [bcs]
    forms = {"J": J, "Jp": Jp, "form_compiler_parameters": form_compiler_parameters}
    key = _key(equation, u, bcs, forms, kwargs)
    known = _known(key, bcs)
    forgotten = any_rank(getattr(u, "comm", None), known is None)  # ranks forget on their own
    solves = _make(equation, u, bcs, forms, kwargs) if known is None or forgotten else known
    if key is not None:
        _kept[key] = solves
        if not annotate:
            _keep_if_asked_again(u, key, solves)
    return solve_and_record(solves, annotate, tag, bounds)


def _known(key: Hashable, bcs: list) -> Solves | None:
    solves = None if key is None else _kept.get(key)
    if solves is None or _conditions(solves.state.problem.bcs) != _conditions(bcs):
        return None
    return solves


def _keep_if_asked_again(u: fd.Function, key: Hashable, solves: Solves) -> None:
    """Let the unknown keep what it was solved with before: there is a loop without a tape.

    What is asked for once is not kept, for a factorisation can be most of a program's memory.
    """
    asked = u.__dict__.setdefault("_femnn_asked", {})
    number = hash(key)
    asked[number] = solves if number in asked else None


def _make(equation: Any, u: fd.Function, bcs: list, forms: dict, options: dict) -> Solves:
    options = dict(options)
    problem = _problem(equation, u, bcs, restrict=options.pop("restrict", False), **forms)
    own = {k: options.pop(k) for k in ("warm_start",) if k in options}
    adjoint = options.pop("adjoint_solver_parameters", None)
    with stop_annotating():
        return Solves(problem, options, **own, adjoint_parameters=adjoint)


def _problem(
    equation: Any, u: fd.Function, bcs: list, J: Any, Jp: Any, **parameters: Any
) -> NeuralVariationalProblem:
    left, right = equation.lhs, equation.rhs
    if isinstance(left, ufl.Form) and len(left.arguments()) == 2:
        return NeuralVariationalProblem.linear(left, right, u, bcs, Jp, **parameters)
    if right != 0:
        raise TypeError("solve: write the equation as F == 0, or as a == L with a bilinear a.")
    return NeuralVariationalProblem(left, u, bcs, J=J, Jp=Jp, **parameters)


def _key(equation: Any, u: fd.Function, bcs: list, forms: dict, options: dict) -> Hashable:
    """What tells calls apart; ``None`` where the call is to have a solver of its own."""
    sides = [s for s in (equation.lhs, equation.rhs, forms["J"], forms["Jp"]) if s is not None]
    written = [split_terms(side) for side in sides if isinstance(side, ufl.form.BaseForm)]
    terms = [(term.weight, term.cofunction) for _, beside in written for term in beside]
    held = [d for form, _ in written for d in dependencies_of(form)]
    linear = isinstance(equation.lhs, ufl.Form) and len(equation.lhs.arguments()) == 2
    if linear and u in held:
        return None  # it stands for its value at this moment
    # Forms are equal by their signatures, in which Functions are numbered, and by what holds data.
    meshes = [d for form, _ in written for d in form.ufl_domains()]
    same = [id(o) for o in (u, *held, *meshes, *(cofunction for _, cofunction in terms))]
    weights = [weight for weight, _ in terms]
    sides = [side for side in sides if not isinstance(side, ufl.form.BaseForm)]
    sides += [form.signature() for form, _ in written]
    try:
        parameters = _frozen([forms["form_compiler_parameters"], options])
        key = (*sides, *weights, *same, _conditions(bcs), parameters)
        hash(key)
    except TypeError:
        return None
    return key


def _conditions(bcs: list) -> tuple[Hashable, ...]:
    """What tells conditions apart: where they hold, and what they say now."""
    return tuple(
        (bc.function_space(), _frozen(bc.sub_domain), value_of(bc))
        if isinstance(bc, fd.DirichletBC)
        else id(bc)
        for bc in bcs
    )


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
