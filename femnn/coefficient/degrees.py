"""Quadrature degrees of forms with neural coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ufl
from ufl.algorithms import extract_arguments, extract_coefficients
from ufl.algorithms.apply_integral_scaling import apply_integral_scaling
from ufl.algorithms.compute_form_data import attach_estimated_degrees, preprocess_form
from ufl.algorithms.domain_analysis import group_form_integrals

from femnn.coefficient.coefficient import NeuralCoefficient, neural_coefficients
from femnn.points.rules import asked_degree


def with_degrees(form: ufl.Form, parameters: Mapping | None = None) -> ufl.Form:
    """The form with each neural coefficient's quadrature degree in the integrals that hold it.

    Integrals that hold none keep the degree that they have without neural coefficients: where
    a form holds values at quadrature points, Firedrake would give that rule to all integrals
    without a degree, and so another one to derivatives in which these values do not stand.

    Parameters
    ----------
    form
        The form.
    parameters
        The form compiler's: their ``quadrature_degree`` is that of measures without one.

    Raises
    ------
    NotImplementedError
        If an element in an integral with a coefficient splits the cells.
    ValueError
        If a measure has another degree, or two coefficients in one integral differ.
    """
    asked = (parameters or {}).get("quadrature_degree")
    if asked is not None:
        form = ufl.Form([_with_asked(integral, asked) for integral in form.integrals()])
    at_points = any(_rule_degrees(c) for c in form.coefficients())
    return ufl.Form([_with_degree(integral, at_points) for integral in form.integrals()])


def _with_asked(integral: ufl.Integral, degree: int) -> ufl.Integral:
    if asked_degree(integral) is not None:
        return integral
    return integral.reconstruct(metadata={**integral.metadata(), "quadrature_degree": degree})


def _with_degree(integral: ufl.Integral, at_points: bool) -> ufl.Integral:
    found = neural_coefficients(integral.integrand())
    coefficients = [c for c in found if c.degree is not None]
    if not coefficients:
        return _with_own_degree(integral) if at_points else integral
    _check_place(coefficients, integral)
    _check_elements(coefficients[0], integral)
    _check_degrees(coefficients, integral)
    _check_scheme(coefficients[0], integral)
    metadata = {**integral.metadata(), "quadrature_degree": coefficients[0].degree}
    return integral.reconstruct(metadata=metadata)


def _with_own_degree(integral: ufl.Integral) -> ufl.Integral:
    """The degree of Functions in a Quadrature space, or the one that UFL estimates."""
    if asked_degree(integral) is not None:
        return integral
    functions = extract_coefficients(integral.integrand())
    degrees = {degree for f in functions for degree in _rule_degrees(f)}
    if not degrees:
        degrees = _estimated_degrees(ufl.Form([integral]))
    if len(degrees) > 1:
        raise ValueError(
            f"an integral without a quadrature degree holds Functions of the degrees "
            f"{sorted(degrees)}: write dx(degree=...) with the one that is meant."
        )
    metadata = {**integral.metadata(), "quadrature_degree": degrees.pop()}
    return integral.reconstruct(metadata=metadata)


def with_degrees_in(whole: ufl.Form, part: ufl.Form) -> ufl.Form | None:
    """A part of a form with the quadrature degrees that its integrals have in the whole.

    The form compiler adds up integrals over the same cells, and gives all of them the highest
    degree that one of them needs.

    Parameters
    ----------
    whole, part
        The forms, with their derivatives carried out.

    Returns
    -------
    ufl.Form or None
        ``None`` where one integral of the part has more than one degree in the whole.
    """
    found: dict[Any, set[int]] = {}
    everywhere: dict[Any, set[int]] = {}
    for integral in _estimated(whole).integrals():
        degree = integral.metadata()["estimated_polynomial_degree"]
        for place in _places(integral):
            found.setdefault((_kind(integral), place), set()).add(degree)
        everywhere.setdefault(_kind(integral), set()).add(degree)
    integrals = []
    for integral in part.integrals():
        kind, places = _kind(integral), _places(integral)
        each = [found.get((kind, place), set()) for place in places]
        degrees = everywhere[kind] if "everywhere" in places else set().union(*each)
        if asked_degree(integral) is None and len(degrees) != 1:
            return None
        integrals.append(_with_asked(integral, next(iter(degrees), 0)))
    return ufl.Form(integrals)


def _kind(integral: ufl.Integral) -> tuple:
    """What integrals that are added up have in common, apart from the place."""
    ours = {k: v for k, v in integral.metadata().items() if k != "estimated_polynomial_degree"}
    return integral.integral_type(), integral.ufl_domain(), repr(sorted(ours.items()))


def _places(integral: ufl.Integral) -> tuple:
    place = integral.subdomain_id()
    return place if isinstance(place, tuple) else (place,)


def _estimated_degrees(form: ufl.Form) -> set[int]:
    """What the form compiler finds."""
    return {i.metadata()["estimated_polynomial_degree"] for i in _estimated(form).integrals()}


def _estimated(form: ufl.Form) -> ufl.Form:
    """With the degrees in the metadata, by the form compiler's first steps."""
    simple = preprocess_form(form, complex_mode=False)
    grouped = attach_estimated_degrees(group_form_integrals(simple, form.ufl_domains()))
    return apply_integral_scaling(grouped)  # adds that of the map from the reference cell


def _rule_degrees(function: Any) -> list[int]:
    """The degrees of a Function's parts that are values at a rule's points."""
    elements = [space.ufl_element() for space in function.function_space().subspaces]
    return [e.embedded_superdegree for e in elements if "Quadrature" in e.family()]


def _check_place(coefficients: Sequence[NeuralCoefficient], integral: ufl.Integral) -> None:
    """Refuse coefficients whose points are not those of the integral's cells or facets."""
    place = integral.integral_type()
    for coefficient in coefficients:
        if coefficient.points.integral_type != place:
            raise ValueError(
                f"{coefficient.name()} is evaluated at the points of {coefficient.measure} and "
                f"stands in an integral of type {place!r}: make it with measure=dx, ds or dS, as "
                "the integral is. One network can be in several coefficients."
            )


def _check_degrees(coefficients: Sequence[NeuralCoefficient], integral: ufl.Integral) -> None:
    """Refuse degrees that differ, or that are too low for the integral."""
    first, *others = coefficients
    for other in others:
        if other.degree != first.degree:
            raise ValueError(
                f"{first.name()} has quadrature degree {first.degree} and {other.name()} has "
                f"{other.degree}, and both stand in one integral: give both the same degree=..."
            )
    _check_default(first, integral)
    asked = asked_degree(integral)
    if asked is not None and asked != first.degree:
        raise ValueError(
            f"the measure has quadrature degree {asked}, but {first.name()} in it has degree "
            f"{first.degree}: write dx without a degree (and form_compiler_parameters without "
            f"quadrature_degree), or give the coefficient degree={asked}."
        )


def _check_elements(coefficient: NeuralCoefficient, integral: ufl.Integral) -> None:
    """Refuse elements whose integrals have points of their own, in the parts of each cell."""
    integrand = integral.integrand()
    held = [f for f in extract_coefficients(integrand) if f is not coefficient]
    for f in (*extract_arguments(integrand), *held):
        for space in getattr(f.function_space(), "subspaces", ()):
            element = space.finat_element  # None of space R
            if element is not None and element.complex.is_macrocell():
                raise NotImplementedError(
                    f"{coefficient.name()} stands in an integral with {space.ufl_element()}, whose "
                    "cells are split, and whose integrals have other points: use an element that "
                    "does not, or evaluate the network at nodes (NeuralCoefficient(..., space=V))."
                )


def _check_default(coefficient: NeuralCoefficient, integral: ufl.Integral) -> None:
    """Refuse a degree that was guessed before the test function was known, and is too low."""
    arguments = extract_arguments(integral.integrand())
    spaces = [space for a in arguments for space in a.function_space().subspaces]
    p = max((space.ufl_element().embedded_subdegree for space in spaces), default=0)
    degree = coefficient.degree
    if coefficient.has_default_degree and degree is not None and degree < 2 * p:
        raise ValueError(
            f"{coefficient.name()} has the default quadrature degree {degree}, found "
            f"from its operands alone, which is too low for test functions of degree {p}: give it "
            f"degree={2 * p + 2}."
        )


def _check_scheme(coefficient: NeuralCoefficient, integral: ufl.Integral) -> None:
    """Refuse rules that are not Firedrake's default ones."""
    metadata = integral.metadata()
    scheme = metadata.get("quadrature_rule", metadata.get("scheme", "default"))
    if scheme != "default":
        raise ValueError(
            f"the measure has the quadrature scheme {scheme!r}, but {coefficient.name()} in it is "
            "evaluated at the points of the default scheme: write dx without a scheme."
        )
