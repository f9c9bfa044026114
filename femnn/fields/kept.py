"""Assemblers of forms that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ufl
from firedrake.assemble import get_assembler


class KeptForms:
    """Assemblers of forms that are made at their first use and kept.

    Parameters
    ----------
    form_compiler_parameters, **options
        As for :func:`firedrake.assemble`.
    """

    def __init__(self, form_compiler_parameters: dict | None = None, **options: Any):
        self._options = {"form_compiler_parameters": form_compiler_parameters, **options}
        self._assemblers: dict[Any, Callable[..., Any] | None] = {}

    def __call__(self, key: Any, make_form: Callable[[], ufl.Form]) -> Callable[..., Any] | None:
        """The assembler of the form with this key; ``None`` where the form is zero."""
        if key not in self._assemblers:
            form = ufl.algorithms.expand_derivatives(make_form())
            empty = not isinstance(form, ufl.Form) or form.empty()
            self._assemblers[key] = None if empty else get_assembler(form, **self._options).assemble
        return self._assemblers[key]
