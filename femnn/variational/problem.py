"""Variational problems with neural coefficients."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.coefficient.forms import prepared
from femnn.fields.boundary import value_of
from femnn.fields.copies import check_split, dependencies_of


class NeuralVariationalProblem:
    """A variational problem ``F(u; v) = 0`` with neural coefficients in ``F``.

    Parameters
    ----------
    F
        The residual form.  Measures without a degree take the coefficients' degree where
        one stands in the integral.
    u
        The unknown.
    bcs
        A :class:`firedrake.DirichletBC` or several.
    J
        Another tangent for Newton's method, if not the exact one.  Adjoints use the exact one.
    Jp
        A form from which the preconditioner is built.
    form_compiler_parameters
        As for :class:`firedrake.NonlinearVariationalProblem`.
    is_linear
        Whether ``F`` is linear in ``u``: one linear solve then, no Newton iteration.

    See Also
    --------
    NeuralVariationalProblem.linear : for a == L.

    Raises
    ------
    TypeError
        If ``F`` is not a form with one test function, or ``u`` is not a Function.
    ValueError
        If quadrature degrees differ, a coefficient at nodes depends on ``u``, or ``is_linear`` is
        said of a problem that is not.
    NotImplementedError
        If a boundary condition is not a DirichletBC.
    """

    def __init__(
        self,
        F: ufl.Form,
        u: fd.Function,
        bcs: Any = None,
        J: ufl.Form | None = None,
        Jp: ufl.Form | None = None,
        *,
        form_compiler_parameters: dict | None = None,
        is_linear: bool = False,
    ):
        _check_kinds(F, u)
        self.F = prepared(F, form_compiler_parameters)
        self.u = u
        self.bcs = _as_list(bcs)
        self.J = None if J is None else prepared(J, form_compiler_parameters)
        self.Jp = None if Jp is None else prepared(Jp, form_compiler_parameters)
        self.form_compiler_parameters = form_compiler_parameters
        self.is_linear = is_linear
        coefficients = dict.fromkeys(c for form in self.forms for c in neural_coefficients(form))
        self.implicit = [c for c in coefficients if c.depends_on(u)]
        self.explicit = [c for c in coefficients if not c.depends_on(u)]
        values = (value_of(bc) for bc in self.bcs)
        self.explicit += [g for value in values for g in neural_coefficients(value)]
        self._check_implicit()
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
    ) -> NeuralVariationalProblem:
        """The linear problem ``a(u, v) = L(v)``.

        Its solver assembles and factorises the matrix once, as long as the values in ``a`` stay.

        Parameters
        ----------
        a
            The bilinear form.
        L
            The linear form; 0 for none.
        u
            The unknown.  Where it stands in ``a`` or ``L``, its value at this moment is meant.
        bcs, form_compiler_parameters
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
        parameters = {"form_compiler_parameters": form_compiler_parameters}
        return cls(_residual(a, L, u), u, bcs, Jp=aP, is_linear=True, **parameters)

    @property
    def forms(self) -> list[ufl.Form]:
        """The residual, and the other tangent and the preconditioner where they are given."""
        return [form for form in (self.F, self.J, self.Jp) if form is not None]

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


def _residual(a: ufl.Form, L: Any, u: fd.Function) -> ufl.Form:
    """The residual of a == L; what holds ``u`` already takes its present value, as it must."""
    forms = [form for form in (a, L) if isinstance(form, ufl.Form)]
    if any(u in form.coefficients() for form in forms):
        before = {u: u.copy(deepcopy=True)}
        a, L = (ufl.replace(f, before) if isinstance(f, ufl.Form) else f for f in (a, L))
    return fd.action(a, u) - L


def _check_kinds(F: Any, u: Any) -> None:
    if not isinstance(F, ufl.Form) or len(F.arguments()) != 1:
        raise TypeError(
            f"F is a {type(F).__name__} and not a form with one test function: write the "
            "problem as F == 0 with all terms on the left, or as a == L, without assembled "
            "Cofunctions."
        )
    if not isinstance(u, fd.Function) or isinstance(u, NeuralCoefficient):
        raise TypeError(f"u is a {type(u).__name__}: the unknown must be a Function.")


def _as_list(bcs: Any) -> list[fd.DirichletBC]:
    listed = [] if bcs is None else [bcs] if not isinstance(bcs, (list, tuple)) else list(bcs)
    for bc in listed:
        if not isinstance(bc, fd.DirichletBC):
            raise NotImplementedError(
                f"bcs holds a {type(bc).__name__}: only DirichletBC is supported with neural "
                "coefficients."
            )
    return listed
