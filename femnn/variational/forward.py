"""Forward solves on a state, from a good start; what a failure can be due to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.petsc import PETSc
from petsctools import flatten_parameters

from femnn.fields.copies import FIELDS, copy_values
from femnn.parallel import all_ranks
from femnn.tape.counts import GivenUp, begin_solve, check_budgets, count
from femnn.variational.linear import LinearSolve, is_factorised
from femnn.variational.private import Given
from femnn.variational.state import State

FAR = 10.0  # how far from its tolerance a residual may be
SMALLEST = 1e-13  # relative, of a residual that can be reached
TIMES = 20  # that Newton's method goes on with boundary values that were set again
SETTLED = 1e-10  # relative, of boundary values that are as good as kept
FIREDRAKES = {"mat_type", "pmat_type", "sub_mat_type", "sub_pmat_type"}  # options that it reads
REASONS = PETSc.SNES.ConvergedReason


class BoundaryMoved(fd.ConvergenceError):
    """The linear solver moves boundary values, and further iterations do not help."""


class ForwardSolve:
    """Newton's method (or one linear solve) on a state.

    Parameters
    ----------
    state
        The state.
    warm_start
        Whether a solve for the tape starts from the last solution.
    """

    def __init__(self, state: State, warm_start: bool):
        self.state = state
        self.warm_start = warm_start
        self.first_residual = np.inf
        self._reason = 0
        self._has_named_options = False
        self._linear = LinearSolve(state)

    def run(self) -> None:
        """Solve from the unknown's present value, with what is loaded.  Collective.

        Raises
        ------
        GivenUp
            If it would take more iterations than it may; see :func:`femnn.tape.counts.at_most`.
        """
        state = self.state
        if state.constant_tangent:
            state.solver._ctx._jacobian_assembled = state.has_matrix()
        try:
            with state.networks_unchanged():
                self._solve()
                self._note_start()
                self._hold_boundary()
        except (GivenUp, BoundaryMoved):
            raise
        except fd.ConvergenceError as error:
            if state.snes.getConvergedReason() == REASONS.DIVERGED_LINEAR_SOLVE:
                # PETSc takes a factorisation that has failed once for failed for ever.
                state.snes.getKSP().getPC().reset()
            state.raise_failures()
            raise fd.ConvergenceError(f"{error}\n{diagnosis(state)}") from error
        except PETSc.Error as error:
            state.renew_solver()
            inside = error.__cause__  # what a callback of the user's has raised
            if inside is None:
                raise
            raise inside from inside.__cause__
        state.evaluate()
        state.raise_failures()
        if not self._has_named_options and state.snes.getIterationNumber():
            self._has_named_options = True
            _warn_of_unused(state)

    def _solve(self) -> None:
        """Run PETSc's solver, for as many iterations as it may."""
        state, left = self.state, begin_solve()
        if self._linear.is_ready and self._linear.run():
            count("linear")
            return
        own = state.snes.getTolerances()[3]
        # A fixed number of iterations is no crawling, and a smaller one another result.
        limited = left < own and self._reason != REASONS.CONVERGED_ITS
        if limited:
            state.snes.setTolerances(max_it=int(left))
        try:
            bounded = state.takes_bounds and not state.restriction
            state.solver.solve(bounds=state.bounds.values if bounded else None)
        except fd.ConvergenceError:
            count("linear", state.snes.getIterationNumber())
            check_budgets()
            raise
        finally:
            if limited:
                state.snes.setTolerances(max_it=own)
        count("linear", state.snes.getIterationNumber())
        self._check_solution()
        self._linear.note()

    def _check_solution(self) -> None:
        """Refuse what is no solution; PETSc does not look where iterations have a fixed number."""
        snes = self.state.snes
        fixed = snes.getConvergedReason() == REASONS.CONVERGED_ITS
        if fixed and not np.isfinite(snes.getSolution().norm()):
            raise fd.ConvergenceError("The solution has NaN or infinite values.")

    def _note_start(self) -> None:
        """Keep what a solve began with, and why it ended."""
        norms, _ = self.state.snes.getConvergenceHistory()
        self.first_residual = float(norms[0]) if len(norms) else np.inf
        self._reason = self.state.snes.getConvergedReason()

    def _hold_boundary(self) -> None:
        """Go on with Newton's method where linear solves have moved boundary values.  Collective.

        Firedrake sets these values before the first iterate, and leaves them out of the residual.
        A linear solver that is not exact moves them, by as much as its tolerance allows.
        """
        rtol, atol, *_ = self.state.snes.getTolerances()
        if self._is_exact or self._reason == REASONS.CONVERGED_ITS:
            return
        allowed = max(rtol, SETTLED)
        if np.isfinite(self.first_residual):  # else relative to the next first one, as it was
            rtol, atol = 0.0, max(atol, rtol * self.first_residual)
        for left in reversed(range(TIMES + 1)):
            drift = self.state.boundary_drift()
            if drift <= allowed:
                return
            if left:
                with self._tolerances(rtol, atol):
                    self._solve()
        raise BoundaryMoved(
            f"boundary values are still off by {drift:.1e} (relative) after {TIMES} more solves: "
            "the linear solver moves them. Solve more exactly (ksp_rtol), or leave them out of the "
            "linear system: restrict=True in the problem."
        )

    @property
    def _is_exact(self) -> bool:
        """Whether linear solves leave boundary values where they are."""
        return is_factorised(self.state.snes.getKSP()) or bool(self.state.restriction)

    def again(
        self,
        values: Mapping[Any, Any],
        given: Given,
        guess: fd.Function | None,
        scale: float,
    ) -> tuple[fd.Function, float]:
        """The solution for other values of what it depends on.  Collective.

        Starts from ``guess``, the solution of the last time, if it may; where that fails, and
        otherwise, from the initial guess that the tape has recorded.

        Parameters
        ----------
        values, given
            As for :meth:`State.load`.
        guess
            The last solution, if there is one.
        scale
            The smallest first residual from the recorded guess that is known.

        Returns
        -------
        solution : firedrake.Function
            A new one.
        scale : float
            The smallest first residual that is known now.
        """
        state = self.state
        state.load(values, given)
        if guess is not None and self._starts_warm:
            recorded = state.unknown.copy(deepcopy=True)
            copy_values(guess, state.unknown)
            try:
                self._run_warm(scale)
                self._continue_to(scale)
                return state.unknown.copy(deepcopy=True), scale
            except GivenUp:
                raise
            except fd.ConvergenceError:
                copy_values(recorded, state.unknown)
        self.run()
        return state.unknown.copy(deepcopy=True), min(scale, self.first_residual)

    @property
    def _starts_warm(self) -> bool:
        """Whether the last solution leads to the same solution as the recorded guess.

        After a fixed number of iterations, as in linearly implicit steps, it does not.
        """
        fixed = self._reason == REASONS.CONVERGED_ITS
        return self.warm_start and not self.state.constant_tangent and not fixed

    def _run_warm(self, scale: float) -> None:
        """Solve from the last solution.

        Methods for bounds do not look at the length of a step, and where the start is the solution
        already, no residual is small relative to the first one.
        """
        rtol, atol, *_ = self.state.snes.getTolerances()
        if self.state.takes_bounds and np.isfinite(scale):
            atol = max(atol, max(rtol / FAR**3, SMALLEST) * scale)
        self._run_to(rtol, atol)

    def _run_to(self, rtol: float, atol: float) -> None:
        with self._tolerances(rtol, atol):
            self.run()

    @contextmanager
    def _tolerances(self, rtol: float, atol: float) -> Iterator[None]:
        """Other tolerances of the residual's norm for a while."""
        before, absolute, *_ = self.state.snes.getTolerances()
        self.state.snes.setTolerances(rtol=rtol, atol=atol)
        try:
            yield
        finally:
            self.state.snes.setTolerances(rtol=before, atol=absolute)

    def _continue_to(self, scale: float) -> None:
        """Go on with Newton's method where it has stopped too early for a residual's scale.

        It stops relative to its first residual, so a start from far off, as the solution at
        absurd weights can be, ends far from the solution.
        """
        snes = self.state.snes
        rtol, atol, *_ = snes.getTolerances()
        relative = self._reason == REASONS.CONVERGED_FNORM_RELATIVE
        if not relative or snes.getFunctionNorm() <= FAR * rtol * scale:
            return
        self._run_to(0.0, max(atol, rtol * scale))


def _warn_of_unused(state: State) -> None:
    """Name the options for which PETSc has not asked in a solve: they may be misspelt."""
    given = flatten_parameters(state.options.get("solver_parameters") or {})
    unused = sorted(set(given) - state.solver._used_options - FIREDRAKES)
    if unused:
        warnings.warn(
            f"solver_parameters has {', '.join(map(repr, unused))}, for which PETSc has not asked "
            "in this solve: misspelt, or of a method that is not in use.",
            stacklevel=2,
        )


def diagnosis(state: State) -> str:
    """What a failed solve can be due to, from what can be seen.  Collective."""
    suspects = [
        source.name() if isinstance(source, FIELDS) else source.name
        for source, copy in {**state.assembled.copies, **state.copies}.items()
        if copy is not state.unknown and not _is_finite(state, copy)
    ]
    suspects += [
        f"the boundary values on {b.source.sub_domain}"
        for b in state.boundary
        if not _is_finite(state, b.value)
    ]
    if suspects:
        return f"NaN or infinite values were found in: {', '.join(suspects)}. Mend the data."
    bad = [n.coefficient.name() for n in state.networks if not _is_finite(state, n.terms.value)]
    found = f"At the last iterate {', '.join(bad)} gave NaN or infinity. " if bad else ""
    return (
        f"{found}The unknown keeps the value it had. Try a better initial guess, smaller time "
        "steps, a line search (solver_parameters={'snes_linesearch_type': 'bt'}), a network "
        "whose output keeps the problem well-posed (output='softplus'), and "
        "'snes_monitor': None to watch the residual."
    )


def _is_finite(state: State, value: Any) -> bool:
    parts = value.subfunctions if isinstance(value, FIELDS) else (value,)
    here = all(bool(np.isfinite(part.dat.data_ro).all()) for part in parts)
    return all_ranks(state.comm, here)
