"""Tangent-linear and second-order derivatives of a variational problem with networks inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
import ufl

from femnn.coefficient.chain_rule import total_derivative
from femnn.fields.bounds import Condition
from femnn.fields.derivatives import Direction, constant_gradient
from femnn.fields.equations import Part
from femnn.parallel import sum_over_ranks
from femnn.tape.weights import Weights
from femnn.variational.adjoint import Adjoint, AdjointState, add, total_of
from femnn.variational.motion import Motion
from femnn.variational.network import PrivateNetwork


@dataclass(frozen=True)
class AdjointChange:
    """How an adjoint state changes in a direction, and with it what the networks see.

    Attributes
    ----------
    first
        The adjoint state.
    change
        Its change, the solution of an adjoint equation too.
    cotangents
        For each network the change of its values' cotangent at the fixed adjoint state.
    weights
        For each network the rank's part of the change of its weights' gradient at the fixed
        cotangent.
    boundary
        For each boundary condition what moves in its values.
    dots
        The direction: dependency to change.
    """

    first: AdjointState
    change: AdjointState
    cotangents: dict[PrivateNetwork, np.ndarray | None]
    weights: dict[PrivateNetwork, np.ndarray | float]
    boundary: dict[Condition, list[Direction]]
    dots: Mapping[Any, Any]


class SecondOrder:
    """Changes of a solution, and of its gradients, in a direction of what it depends on.

    The solution's change du solves (dF/du) du = -(dF/dp) dp.  The gradient -(dF/dp)^T lambda
    changes with the adjoint state's own change, which solves the adjoint's system with
    another right side, and with second derivatives of F and of the networks; these come
    from UFL and from torch, contracted with the adjoint state and the direction, so that no
    matrix but the tangent is needed.

    Parameters
    ----------
    adjoint
        The adjoint, whose forms this uses.
    """

    def __init__(self, adjoint: Adjoint):
        self.adjoint = adjoint
        self.state = adjoint.state
        self._motion = Motion(adjoint.state, adjoint.kept)
        self._lift = fd.Function(self.state.unknown.function_space())

    def tangent(self, dots: Mapping[Any, Any]) -> fd.Function:
        """The change of the solution for changes of what it depends on.  Collective.

        Parameters
        ----------
        dots
            Dependency to its change; ``None`` where it stays.
        """
        state = self.state
        self._motion.set({**dots, state.problem.u: None})
        right_side = fd.Cofunction(self._lift.function_space().dual())
        for part in state.parts:
            change = self._motion.change_of(("tangent", part), partial(_form_of, part))
            if change is not None:
                add(right_side, -1.0, part.keep(change()))
        moved = state.assembled.change(dots)
        if moved is not None:
            add(right_side, -1.0, state.parts[0].keep(moved))
        lifted = self._lift_boundary(dots, right_side)
        change = fd.Function(self._lift.function_space())
        self.adjoint.solve_tangent(right_side, change, transposed=False)
        if lifted:
            with change.dat.vec as total, self._lift.dat.vec_ro as lift:
                total.axpy(1.0, lift)
        return change

    def adjoint_change(
        self,
        incoming: fd.Cofunction,
        first: AdjointState,
        solution_dot: fd.Function | None,
        dots: Mapping[Any, Any],
    ) -> AdjointChange:
        """Solve for the change of the adjoint state.  Collective.

        Parameters
        ----------
        incoming
            The change of dJ/du, so far as it is due to what comes after the solve.
        first
            The adjoint state.
        solution_dot
            The change of the solution, from :meth:`tangent`.
        dots
            The direction: dependency to change.
        """
        adjoint, state = self.adjoint, self.state
        seen = [adjoint.cotangent(n, first.value) for n in state.networks]
        moved = self._motion.set({**dots, state.problem.u: solution_dot}, seen)
        adjoint.insert(first.value)
        changes = {n: self._cotangent_change(n) for n in state.networks}
        right_side = incoming.copy(deepcopy=True)
        unknown = state.problem.u
        self._add(right_side, unknown, partial(adjoint.field_form, unknown))
        change = adjoint.solve(right_side)
        weights = dict(zip(state.networks, moved, strict=True))
        boundary = {b: b.given.direction(dots) for b in state.conditions}
        return AdjointChange(first, change, changes, weights, boundary, dots)

    def gradient(self, dependency: Any, at: AdjointChange) -> Any:
        """The change of the gradient with respect to one dependency.  Collective.

        The direction is that of the last :meth:`adjoint_change`, which has returned ``at``.
        """
        if isinstance(dependency, Weights):
            return self._of_weights(dependency, at)
        result = self.adjoint.of_forms(dependency, at.change)
        self.adjoint.insert(at.first.value)
        if isinstance(result, np.ndarray):
            result = result + self._of_constant(dependency)
        elif result is not None:
            self._add(result, dependency, partial(self.adjoint.field_form, dependency))
        parts = [result, *self._of_boundary(dependency, at)]
        if dependency in self.state.assembled.copies:
            values = map(self.adjoint.of_residual, (at.first.value, at.change.value))
            parts.append(self.state.assembled.gradient_change(dependency, *values, at.dots))
        return total_of(parts)

    def _of_boundary(self, dependency: Any, at: AdjointChange) -> list[Any]:
        """What comes through the boundary conditions' values."""
        return [
            condition.given.cotangent_change(
                dependency,
                at.first.at_boundary[condition],
                at.change.at_boundary[condition],
                at.boundary[condition],
            )
            for condition in self.state.conditions_of(dependency)
        ]

    def _lift_boundary(self, dots: Mapping[Any, Any], right_side: fd.Cofunction) -> bool:
        """Let the boundary values' changes drive the right side; whether there are any."""
        state = self.state
        changes = [b.given.change(b.given.direction(dots)) for b in state.conditions]
        if all(change is None for change in changes):
            return False
        self._lift.zero()
        for boundary, change in zip(state.conditions, changes, strict=True):
            boundary.lift(change, self._lift)
        terms = self.adjoint.terms
        for part in state.parts:
            form = partial(total_derivative, part.form, state.unknown, self._lift, terms)
            assemble = self.adjoint.kept(("lift", part), form)
            if assemble is not None:
                add(right_side, -1.0, part.keep(assemble()))
        return True

    def _of_weights(self, weights: Weights, at: AdjointChange) -> Weights:
        total = np.zeros(len(weights))
        for network in self.state.networks:
            if network.weights is not weights:
                continue
            total += at.weights[network]
            parts = [self.adjoint.cotangent(network, at.change.value), at.cotangents[network]]
            present = [part for part in parts if part is not None]
            if present:
                cotangent = sum(present[1:], present[0])
                total += network.weight_vjp(cotangent, self.state.weights_of(network))
        return weights.like(sum_over_ranks(self.state.comm, total))

    def _of_constant(self, constant: fd.Constant) -> np.ndarray:
        def entry(index: tuple[int, ...]) -> float:
            first = partial(self.adjoint.entry_form, constant, index)
            assemble = self._motion.change_of((constant, index), first)
            return 0.0 if assemble is None else assemble()

        return constant_gradient(constant, entry)

    def _cotangent_change(self, network: PrivateNetwork) -> np.ndarray | None:
        form = partial(self.adjoint.cotangent_form, network)
        assemble = self._motion.change_of(network, form)
        return None if assemble is None else network.points.at.rows(assemble()).copy()

    def _add(
        self,
        target: fd.Cofunction,
        key: Any,
        make_form: Callable[[], ufl.Form],
        factor: float = 1.0,
    ) -> None:
        assemble = self._motion.change_of(key, make_form)
        if assemble is not None:
            add(target, factor, assemble())


def _form_of(part: Part) -> ufl.Form:
    return part.form
