"""Quadrature rules as elements: in cells and on facets; their degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ufl
from finat.ufl import FiniteElement, TensorProductElement
from gem.gem import IndexBase
from ufl.algorithms import extract_coefficients

FACETS = {
    "exterior_facet": "ds",
    "interior_facet": "dS",
    "exterior_facet_vert": "ds_v",
    "exterior_facet_bottom": "ds_b",
    "exterior_facet_top": "ds_t",
    "interior_facet_vert": "dS_v",
    "interior_facet_horiz": "dS_h",
}


def facet_element(mesh: Any, degree: int, integral_type: str) -> Any:
    """The element with values at a rule's points on facets."""
    possible = [t for t in FACETS if (t.split("_")[-1] != "facet") == mesh.extruded]
    if integral_type not in possible:
        raise ValueError(
            f"a coefficient with the measure {FACETS.get(integral_type, integral_type)} on "
            f"{mesh.ufl_cell()} cells: on this mesh the measure can be dx, "
            f"{', '.join(FACETS[t] for t in possible)}."
        )
    if not mesh.extruded:
        return facet_rule(mesh.ufl_cell(), degree)
    base, line = mesh.ufl_cell().sub_cells
    if integral_type.endswith("vert"):
        # finat names a product's facet by numpy's integers, which gem does not take as indices.
        IndexBase.register(np.integer)
        factors = (facet_rule(base, degree), cell_rule(line, degree))
    else:
        factors = (cell_rule(base, degree), facet_rule(line, degree))
    return TensorProductElement(*factors)


def facet_rule(cell: Any, degree: int) -> Any:
    """Values at the points of a cell's facets; those of an interval are its ends."""
    if cell.topological_dimension == 1:
        return FiniteElement("CG", cell, 1)
    return FiniteElement("BQ", cell, degree)


def cell_rule(cell: Any, degree: int) -> Any:
    """The element with values at the points of a cell's default rule."""
    return FiniteElement("Quadrature", cell, degree, quad_scheme="default")


def asked_degree(measure: ufl.Measure | ufl.Integral) -> int | None:
    """The quadrature degree that a measure or an integral asks for."""
    metadata = measure.metadata()
    return metadata.get("quadrature_degree", metadata.get("degree"))


def default_degree(mesh: Any, operands: Sequence[Any]) -> int:
    """Degree of quadrature where the user gives none: 2 p + 2.

    p is the highest polynomial degree among the Functions in the operands and the mesh.
    A law of the unknown counts as degree p + 2 (UFL's rule for nonlinear functions), a test
    function as p.
    """
    functions = [mesh.coordinates]
    functions += [c for op in operands for c in extract_coefficients(op)]
    spaces = [space for f in functions for space in f.function_space().subspaces]
    degrees = [space.ufl_element().embedded_subdegree for space in spaces]
    return 2 * max(1, *degrees) + 2
