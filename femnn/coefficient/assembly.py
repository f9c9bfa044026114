"""Assembling forms with neural coefficients, and what the tape records of it."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import ufl
from pyadjoint.tape import annotate_tape

from femnn.coefficient.coefficient import neural_coefficients
from femnn.coefficient.forms import prepared
from femnn.coefficient.functionals import value_and_record
from femnn.coefficient.linear_forms import assemble_and_record
from femnn.fields.copies import meshes_of
from femnn.tape.meshes import is_moved_by_the_tape


def assemble(form: Any, *args: Any, **kwargs: Any) -> Any:
    """Firedrake's ``assemble`` for forms with neural coefficients.  Collective.

    Evaluates the coefficients where their operands or weights have changed, and gives the
    measures their quadrature degree.  Functionals and linear forms are recorded on the tape with
    assemblers that are kept, which makes time loops and training faster than with Firedrake's
    own, also for forms without a network, and with derivatives for Constants too; all else goes
    to Firedrake, and with it forms without a network on a mesh whose coordinates the tape has
    assigned, so that they have derivatives with respect to these.

    Parameters
    ----------
    form
        A form.
    *args, **kwargs
        As for :func:`firedrake.assemble`.

    Returns
    -------
    float, Cofunction, Function or Matrix
        As Firedrake's; a number is the same on all ranks.

    Raises
    ------
    NotImplementedError
        If a coefficient stands under a derivative in space that it does not have.
    ValueError
        If a measure's degree differs from a coefficient's, or values at quadrature points are
        interpolated elsewhere.
    """
    if isinstance(form, (ufl.Form, ufl.FormSum)):
        form = prepared(form, kwargs.get("form_compiler_parameters"))
        for coefficient in neural_coefficients(form):
            coefficient.update()
        if not args and _can_be_kept(form, kwargs):
            if not annotate_tape(kwargs):
                kwargs["annotate"] = False
            elif neural_coefficients(form) or not any(map(is_moved_by_the_tape, meshes_of(form))):
                return _recorded(form, **kwargs)
    return fd.assemble(form, *args, **kwargs)


def _can_be_kept(form: Any, options: dict) -> bool:
    """Whether a form is a functional or a linear form of Functions, assembled as any other."""
    if form.empty() or not all(isinstance(c, fd.Function) for c in form.coefficients()):
        return False
    rank = len(form.arguments())
    if rank == 0:
        return set(options) <= {"annotate"}
    given = options.get("tensor")
    plain = set(options) <= {"annotate", "tensor"} and not form.base_form_operators()
    return rank == 1 and plain and (given is None or isinstance(given, fd.Cofunction))


def _recorded(form: ufl.Form, tensor: fd.Cofunction | None = None) -> Any:
    return assemble_and_record(form, tensor) if form.arguments() else value_and_record(form)
