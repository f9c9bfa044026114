"""Forms with neural coefficients as Firedrake can assemble them."""

from __future__ import annotations

from typing import Any

import ufl

from femnn.coefficient.degrees import with_degrees
from femnn.coefficient.places import with_gradients, with_sides


def prepared(form: Any) -> Any:
    """The form with the degrees, sides and gradients of neural coefficients written out.

    Parameters
    ----------
    form
        A form, or a sum of forms and Cofunctions.

    Raises
    ------
    NotImplementedError
        If a coefficient stands under a derivative in space that it does not have.
    ValueError
        If a measure's degree or place is not a coefficient's, or two coefficients in one integral
        differ.
    """
    if isinstance(form, ufl.FormSum):
        parts = [prepared(c) if isinstance(c, ufl.Form) else c for c in form.components()]
        return ufl.FormSum(*zip(parts, form.weights(), strict=True))
    return with_degrees(with_sides(with_gradients(form)))
