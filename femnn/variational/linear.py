"""Linear problems whose matrix is factorised: one linear solve, from the source alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake import dmhooks
from firedrake.petsc import PETSc
from ufl.algorithms import expand_derivatives
from ufl.algorithms.check_arities import ArityMismatch

from femnn.coefficient.degrees import with_degrees_in
from femnn.fields.copies import copy_values, dependencies_of, version
from femnn.fields.kept import KeptForms
from femnn.fields.matrices import left_over
from femnn.fields.stamp import Stamp, Validity
from femnn.parallel import any_rank
from femnn.variational.state import CALLBACKS, State

FACTORISATIONS = ("lu", "cholesky")
# What users can give to Firedrake's solver that only its own way through a solve does.
OWN_WAY = (*CALLBACKS, "nullspace", "transpose_nullspace", "near_nullspace")

# Options of a nonlinear solver that say nothing about one linear solve; others, as monitors, do.
WITHOUT_EFFECT = {
    "snes_type",
    "snes_linesearch_type",
    "snes_rtol",
    "snes_atol",
    "snes_stol",
    "snes_max_it",
}


# Relative: two right sides are the same, and the residual of a solution that is known is as small
# as that of a factorisation, which grows with the matrix.
ROUNDING, KNOWN = 1e-14, 1e-10
TIMES = 100  # as much as the factorisation has left over


class LinearSolve:
    """Solves A u = b with the matrix and the factorisation of Firedrake's solver.

    Firedrake takes a linear problem for one step of Newton's method, at whose start the residual is
    assembled.  A factorisation needs no start: b is what the residual is at zero, negative, and is
    assembled when what it is made of has changed.  Where boundary values are not zero, the residual
    at these takes its place.

    Parameters
    ----------
    state
        The state.
    """

    def __init__(self, state: State):
        self.state = state
        self._solved: Any = None  # Firedrake's solver, when it has solved once
        self._source = _source_of(state) if _is_plain(state) else None
        if self._source is None:
            return
        self._kept = KeptForms(state.problem.form_compiler_parameters)
        self._in_source = dependencies_of(self._source)
        self._assembled = Validity(state.comm)
        dual = state.unknown.function_space().dual()
        self._value, self._right_side = fd.Cofunction(dual), fd.Cofunction(dual)

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`run` can take the place of Firedrake's solver."""
        return self._source is not None and self._solved is self.state.solver

    def note(self) -> None:
        """Firedrake's solver has solved the problem once, so all that it sets up is there."""
        if self._source is not None and is_factorised(self.state.snes.getKSP()):
            self._solved = self.state.solver

    def run(self) -> bool:
        """Solve; whether that went well, else Firedrake's solver is to say why not.  Collective."""
        state, solver, ksp = self.state, self.state.solver, self.state.snes.getKSP()
        state.assemble_tangent()
        ksp.setOperators(*state.snes.getJacobian()[:2])
        lifted = self._load()
        with (
            solver.inserted_options(),
            dmhooks.add_hooks(solver.snes.getDM(), solver, appctx=solver._ctx),
            self._right_side.dat.vec_ro as given,
        ):
            b, x = given.copy(), given.duplicate()  # an error would leave it locked
            ksp.solve(b, x)
        if ksp.getConvergedReason() < 0 or not np.isfinite(x.norm()):
            ksp.getPC().reset()  # it takes a factorisation that has failed once for failed for ever
            return False
        # Where a part of a mixed space has no source, what is left over there has no other scale.
        parts, least = state.unknown.function_space().dof_dset.field_ises, np.zeros(1)
        if len(parts) > 1:
            least = _norms(left_over(state.snes.getJacobian()[0], x, b, False), parts)
        state.solved = b, x, least
        with state.unknown.dat.vec as u:
            if lifted:
                u.axpy(1.0, x)
            else:
                x.copy(u)
        return True

    def _load(self) -> bool:
        """Let the right side be that of the present state.  Collective.

        Whether the unknown holds boundary values, to which the solution is to be added.
        """
        state = self.state
        lifted = any_rank(state.comm, any(b.value.dat.data_ro.any() for b in state.boundary))
        if lifted:
            state.unknown.dat.zero()
            for boundary in state.boundary:
                boundary.bc.apply(state.unknown)
            self._assemble("residual", -state.residual, self._right_side)
        else:
            self._assemble_source()
            copy_values(self._value, self._right_side)
        if state.problem.assembled:
            with self._right_side.dat.vec as b, state.assembled.value.dat.vec_ro as part:
                b.axpy(-1.0, part)
        if lifted or state.problem.assembled:
            self._keep_free(self._right_side)
        return lifted

    def _assemble_source(self) -> None:
        """Let the source be the present one.  Collective."""
        present = Stamp((*map(version, self._in_source), *self.state.moves()))
        if not self._assembled.holds(present):
            self._assemble("source", self._source, self._value)
            self._keep_free(self._value)
            self._assembled.note(present)

    def _assemble(self, key: str, form: ufl.Form, into: fd.Cofunction) -> None:
        assemble = self._kept(key, lambda: form)
        if assemble is None:
            into.dat.zero()
        else:
            copy_values(assemble(), into)

    def _keep_free(self, right_side: fd.Cofunction) -> None:
        """The matrix has rows of the identity at boundary conditions."""
        for boundary in self.state.boundary:
            boundary.zero(right_side)


def take_known(
    state: State, right_side: fd.Cofunction, solution: fd.Function, transposed: bool
) -> bool:
    """Take the last solution, times a number, where it solves this system too.  Collective.

    Compliance, what a linear problem's source does work on, has this source for a derivative, so
    its adjoint state is the solution where the matrix is symmetric.
    """
    if state.solved is None:
        return False
    source, known, least = state.solved
    parts = state.unknown.function_space().dof_dset.field_ises
    with right_side.dat.vec_ro as b, solution.dat.vec_wo as x:
        scale = source.dot(source)
        factor = b.dot(source) / scale if scale > 0 else 0.0
        b.copy(x)
        x.axpy(-factor, source)
        if not all(_norms(x, parts) <= ROUNDING * _norms(b, parts)):
            return False
        state.assemble_tangent()
        known.copy(x)
        x.scale(factor)
        left = left_over(state.snes.getJacobian()[0], x, b, transposed)
        allowed = np.maximum(KNOWN * _norms(b, parts), TIMES * abs(factor) * least)
        return bool(all(_norms(left, parts) <= allowed))


def _norms(vector: PETSc.Vec, parts: Sequence[PETSc.IS]) -> np.ndarray:
    """Of each part of a mixed space, for one may be small beside another.  Collective."""
    if len(parts) == 1:
        return np.array([vector.norm()])
    norms = []
    for part in parts:
        entries = vector.getSubVector(part)
        norms.append(entries.norm())
        vector.restoreSubVector(part, entries)
    return np.array(norms)


def is_factorised(ksp: Any) -> bool:
    """Whether a linear solver is a factorisation, and nothing else."""
    return ksp.getType() == "preonly" and ksp.getPC().getType() in FACTORISATIONS


def _is_plain(state: State) -> bool:
    """Whether nothing is asked for but the solution of the equation."""
    options = state.solver.parameters
    nonlinear = {name for name in options if name.startswith("snes_")}
    return (
        state.problem.is_linear
        and state.exact
        and state.constant_tangent
        and state.preconditioner is None
        and not state.equations
        and not state.restriction
        and options.get("snes_type") == "ksponly"
        and nonlinear <= WITHOUT_EFFECT
        and not any(state.options.get(name) for name in OWN_WAY)
    )


def _source_of(state: State) -> ufl.Form | None:
    """The negative residual at zero, by the same quadrature.

    ``None`` where UFL does not see that it is linear, or its integrals have several degrees.
    """
    trial = fd.TrialFunction(state.unknown.function_space())
    residual = expand_derivatives(state.residual)
    try:
        source = ufl.rhs(ufl.replace(residual, {state.unknown: trial}))
    except (ArityMismatch, ValueError):
        return None
    return with_degrees_in(residual, source)
