"""Variational problems with neural coefficients."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.coefficient.forms import prepared
from femnn.fields.boundary import value_of
from femnn.fields.cofunctions import Term, split_terms
from femnn.fields.copies import check_split, dependencies_of
from femnn.fields.equations import dirichlet_conditions, form_of_equation


class NeuralVariationalProblem:
    """A variational problem ``F(u; v) = 0`` with neural coefficients in ``F``.

    Parameters
    ----------
    F
        The residual form, also with assembled Cofunctions beside it: ``F - c``, ``F + 2 * c``,
        ``F - dt * c`` with a Constant.  Measures without a degree take the coefficients' degree
        where one stands in the integral.
    u
        The unknown.
    bcs
        A :class:`firedrake.DirichletBC` or :class:`firedrake.EquationBC`, or several.  Networks may
        stand in an equation's form; its exact tangent is used.
    J
        Another tangent for Newton's method, if not the exact one.  Adjoints use the exact one.
    Jp
        A form from which the preconditioner is built.
    form_compiler_parameters
        As for :class:`firedrake.NonlinearVariationalProblem`.
    is_linear
        Whether ``F`` is linear in ``u``: one linear solve then, no Newton iteration.
    restrict
        Whether solves leave out the unknowns that boundary conditions set, as for
        :class:`firedrake.NonlinearVariationalProblem`.  Derivatives have a matrix of their own
        then, of all unknowns.  With an EquationBC nothing is left out, as in Firedrake.

    Attributes
    ----------
    F : ufl.Form
        The residual form, without Cofunctions.
    assembled : list of Term
        The Cofunctions beside it, and their weights.
    dirichlet : list of firedrake.DirichletBC
        The Dirichlet conditions, those inside of equations too.
    equations : dict
        Each EquationBC with its form.

    See Also
    --------
    NeuralVariationalProblem.linear : for a == L.

    Raises
    ------
    TypeError
        If ``F`` is not a form with one test function, or ``u`` is not a Function.
    ValueError
        If quadrature degrees differ, ``u`` is not in ``F``, a condition is on another space, a
        coefficient at nodes depends on ``u``, ``is_linear`` is
        said of a problem that is not, a Cofunction is not on the dual of ``u``'s space, or an
        EquationBC is for another unknown.
    NotImplementedError
        If a boundary condition is neither a DirichletBC nor an EquationBC, an EquationBC holds
        another, a Cofunction or a tangent of its own, something stands beside the form that is
        not assembled, or ``restrict`` is said of conditions that Firedrake cannot restrict.

    Notes
    -----
    Gradients reach the Cofunctions, and what they were assembled from by recorded calls of
    ``assemble``: the derivative by a Cofunction is a Function, the adjoint state times its weight.
    pyadjoint gives it for ``Control(c)`` with ``derivative(apply_riesz=True)`` only; let the
    control be what ``c`` is assembled from, or a weight.
    """

    def __init__(
        self,
        F: ufl.Form | ufl.FormSum,
        u: fd.Function,
        bcs: Any = None,
        J: ufl.Form | None = None,
        Jp: ufl.Form | None = None,
        *,
        form_compiler_parameters: dict | None = None,
        is_linear: bool = False,
        restrict: bool = False,
    ):
        form, self.assembled = split_terms(F)
        _check_kinds(F, form, u)
        _check_spaces(self.assembled, u)
        self.F = prepared(form, form_compiler_parameters)
        self.u = u
        self.bcs = _as_list(bcs)
        self.dirichlet = dirichlet_conditions(self.bcs)
        self.equations = {
            bc: prepared(form_of_equation(bc, u), form_compiler_parameters)
            for bc in self.bcs
            if isinstance(bc, fd.EquationBC)
        }
        if restrict and not self.equations:
            _check_restrictable(self.bcs)
        self.J = None if J is None else prepared(J, form_compiler_parameters)
        self.Jp = None if Jp is None else prepared(Jp, form_compiler_parameters)
        self.form_compiler_parameters = form_compiler_parameters
        self.is_linear = is_linear
        self.restrict = restrict
        coefficients = dict.fromkeys(c for form in self.forms for c in neural_coefficients(form))
        self.implicit = [c for c in coefficients if c.depends_on(u)]
        self.explicit = [c for c in coefficients if not c.depends_on(u)]
        values = (value_of(bc) for bc in self.dirichlet)
        self.explicit += [g for value in values for g in neural_coefficients(value)]
        self._check_implicit()
        self._check_unknown()
        if not is_linear:
            laws = (c.inputs for c in (*self.implicit, *self.explicit))
            check_split(u, (d for f in (*self.forms, *laws) for d in dependencies_of(f)))

    @classmethod
    def linear(
        cls,
        a: ufl.Form,
        L: Any,
        u: fd.Function,
        bcs: Any = None,
        aP: ufl.Form | None = None,
        *,
        form_compiler_parameters: dict | None = None,
        restrict: bool = False,
    ) -> NeuralVariationalProblem:
        """The linear problem ``a(u, v) = L(v)``.

        Its solver assembles and factorises the matrix once, as long as the values in ``a`` stay.

        Parameters
        ----------
        a
            The bilinear form.
        L
            The linear form, a Cofunction or a sum of both; 0 for none.
        u
            The unknown.  Where it stands in ``a`` or ``L``, its value at this moment is meant.
        bcs, form_compiler_parameters, restrict
            As for the class.
        aP
            A form from which the preconditioner is built.

        Returns
        -------
        NeuralVariationalProblem
            The problem with the residual ``a(u, v) - L(v)``.

        Raises
        ------
        TypeError
            If ``a`` is not a bilinear form.
        """
        if not isinstance(a, ufl.Form) or len(a.arguments()) != 2:
            raise TypeError(
                f"a is a {type(a).__name__} and not a form with a trial and a test function: write "
                "the problem as a == L, or as F == 0."
            )
        return cls(
            _residual(a, L, u),
            u,
            bcs,
            Jp=aP,
            form_compiler_parameters=form_compiler_parameters,
            is_linear=True,
            restrict=restrict,
        )

    @property
    def forms(self) -> list[ufl.Form]:
        """The residual, those of conditions, the other tangent and the preconditioner if given."""
        return [f for f in (self.F, *self.equations.values(), self.J, self.Jp) if f is not None]

    def _check_unknown(self) -> None:
        """Refuse what Firedrake would end with a bare IndexError or RuntimeError for."""
        if not self.implicit and self.u not in dependencies_of(self.F):
            raise ValueError(
                f"the unknown {self.u.name()} does not stand in F: write F with the Function that "
                "is solved for, split(u) for the parts of a mixed one."
            )
        for bc in self.dirichlet:
            space = bc.function_space()
            while space.parent is not None:
                space = space.parent
            if space != self.u.function_space():
                raise ValueError(
                    f"a boundary condition is on {space}, wanted the unknown's space "
                    f"{self.u.function_space()} or a part of it: make it with that one."
                )

    def _check_implicit(self) -> None:
        for coefficient in self.implicit:
            if coefficient.degree is None:
                raise ValueError(
                    f"{coefficient.name()} is evaluated at the nodes of a space and depends on the "
                    "unknown: leave out space=..., so that it is evaluated at quadrature points."
                )
        if self.is_linear and self.implicit:
            raise ValueError(
                f"the problem is given as a == L, but {self.implicit[0].name()} depends on the "
                "unknown, so it is not linear: write it as F == 0."
            )


def _residual(a: ufl.Form, L: Any, u: fd.Function) -> ufl.Form | ufl.FormSum:
    """The residual of a == L; what holds ``u`` already takes its present value, as it must."""
    forms = [form for form in (a, L) if isinstance(form, ufl.form.BaseForm)]
    if any(u in form.coefficients() for form in forms):
        before = {u: u.copy(deepcopy=True)}
        a, L = (ufl.replace(f, before) if isinstance(f, ufl.form.BaseForm) else f for f in (a, L))
    return fd.action(a, u) - L


def _check_kinds(F: Any, form: ufl.Form, u: Any) -> None:
    if form.empty() or len(form.arguments()) != 1:
        raise TypeError(
            f"F is a {type(F).__name__} and not a form with one test function: write the "
            "problem as F == 0 with all terms on the left, or as a == L. Assembled Cofunctions can "
            "stand beside a form."
        )
    if not isinstance(u, fd.Function) or isinstance(u, NeuralCoefficient):
        raise TypeError(f"u is a {type(u).__name__}: the unknown must be a Function.")


def _check_spaces(assembled: list[Term], u: fd.Function) -> None:
    for term in assembled:
        space = term.cofunction.function_space()
        if space.dual() != u.function_space():
            raise ValueError(
                f"the Cofunction {term.cofunction.name()} is on {space}, wanted the dual of the "
                f"unknown's space {u.function_space()}: assemble it with a test function of that."
            )


def _as_list(bcs: Any) -> list[fd.DirichletBC | fd.EquationBC]:
    listed = [] if bcs is None else [bcs] if not isinstance(bcs, (list, tuple)) else list(bcs)
    for bc in listed:
        if not isinstance(bc, (fd.DirichletBC, fd.EquationBC)):
            raise NotImplementedError(
                f"bcs holds a {type(bc).__name__}: only DirichletBC and EquationBC are supported."
            )
    return listed


def _check_restrictable(bcs: list[fd.DirichletBC]) -> None:
    """Refuse what Firedrake's restricted spaces do not know."""
    whole = [bc.function_space() for bc in bcs if bc.function_space().component is None]
    for bc in bcs:
        space = bc.function_space()
        if space.component is not None and space.parent in whole:
            what = "for one component of a field, and another for all of its components"
        elif any(isinstance(s, tuple) and len(s) > 1 for s in bc.sub_domain):
            what = "on the intersection of parts of the boundary"
        else:
            continue
        raise NotImplementedError(
            f"restrict=True: a condition stands {what} ({bc.sub_domain}), which Firedrake's "
            "restricted spaces do not know. Leave out restrict=True."
        )
