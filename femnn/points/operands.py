"""A network's operands: UFL expressions, whose components are its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ufl
from ufl.domain import extract_domains


def as_expressions(operands: Sequence[Any]) -> tuple[Any, ...]:
    """The operands as UFL expressions.

    Raises
    ------
    TypeError
        If one is not a UFL expression or a number.
    """
    checked = []
    for operand in operands:
        try:
            checked.append(ufl.as_ufl(operand))
        except ValueError as error:
            raise TypeError(
                f"operand {operand!r} is a {type(operand).__name__}: wanted a UFL expression such "
                "as a Function, its gradient, SpatialCoordinate(mesh) or a Constant."
            ) from error
    return tuple(checked)


def mesh_of(operands: Sequence[Any]) -> Any:
    """The mesh on which the operands live.

    Raises
    ------
    ValueError
        If they live on none or on several.
    """
    meshes = list(dict.fromkeys(m for op in operands for m in extract_domains(op)))
    if len(meshes) != 1:
        raise ValueError(
            f"the operands {[str(op) for op in operands]} live on {len(meshes)} meshes: all must "
            "live on one. If none of them has a mesh, give it as mesh=..."
        )
    return meshes[0].unique() if hasattr(meshes[0], "unique") else meshes[0]


def flatten(operands: Sequence[Any]) -> Any:
    """All components of the operands as one UFL vector, those of tensors row by row."""
    components = []
    for operand in operands:
        if operand.ufl_shape == ():
            components.append(operand)
        else:
            components += [operand[index] for index in np.ndindex(operand.ufl_shape)]
    return ufl.as_vector(components)
