"""Assemblers of forms that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ufl
from firedrake.assemble import ParloopFormAssembler, get_assembler

from femnn.fields.cotangents import zero_in


class KeptForm:
    """A form with its assembler; each call gives a new number, Cotangent or matrix.  Collective.

    Parameters
    ----------
    form
        The form, with its derivatives carried out.
    **options
        As for :func:`firedrake.assemble`.
    """

    def __init__(self, form: ufl.Form, **options: Any):
        arguments = form.arguments()
        self._assembler = get_assembler(form, **options)
        self._dual = arguments[0].function_space().dual() if len(arguments) == 1 else None
        self._number = None if arguments else self._assembler.allocate()

    def __call__(self) -> Any:
        """The assembled form."""
        if self._dual is None:
            return self._assembler.assemble(tensor=self._number)
        result = zero_in(self._dual)
        if not isinstance(self._assembler, ParloopFormAssembler):  # of forms with interpolations
            return self._assembler.assemble(tensor=result)
        # As assemble does, but for the dual space, which Firedrake makes anew to compare.
        self._assembler.execute_parloops(result)
        return result


class KeptForms:
    """Assemblers of forms that are made at their first use and kept.

    Parameters
    ----------
    form_compiler_parameters, **options
        As for :func:`firedrake.assemble`.
    """

    def __init__(self, form_compiler_parameters: dict | None = None, **options: Any):
        self._options = {"form_compiler_parameters": form_compiler_parameters, **options}
        self._assemblers: dict[Any, KeptForm | None] = {}

    def __call__(self, key: Any, make_form: Callable[[], ufl.Form]) -> KeptForm | None:
        """The form with this key, to be assembled; ``None`` where it is zero."""
        if key not in self._assemblers:
            form = ufl.algorithms.expand_derivatives(make_form())
            self._assemblers[key] = None if _is_zero(form) else KeptForm(form, **self._options)
        return self._assemblers[key]


def _is_zero(form: Any) -> bool:
    """Whether a form is zero.

    Raises
    ------
    NotImplementedError
        If it is a derivative by what is interpolated inside a form.
    """
    if isinstance(form, ufl.form.BaseForm) and not isinstance(form, (ufl.Form, ufl.ZeroBaseForm)):
        raise NotImplementedError(
            "a form holds interpolate(f, V), and its derivative for f is asked for: interpolate "
            "before, g = Function(V).interpolate(f), and write g in the form."
        )
    return not isinstance(form, ufl.Form) or form.empty()
