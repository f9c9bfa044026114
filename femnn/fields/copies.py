"""Private copies of the Functions and Constants that expressions depend on.

A solver works on its own copies.  Evaluating it again with the values of another time, for
the tape, then never touches what the user holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations
from pyop2 import op2
from tsfc.ufl_utils import extract_firedrake_constants
from ufl.algorithms import extract_coefficients
from ufl.domain import extract_domains

from femnn.parallel import any_rank_each

Value: TypeAlias = Any  # a firedrake Function, Cofunction or Constant
FIELDS = (fd.Function, fd.Cofunction)


def is_real(space: Any) -> bool:
    """Whether a function space is the Real space."""
    return space.ufl_element().family() == "Real"


def dependencies_of(expression: Any) -> list[Value]:
    """The Functions and Constants in a form or an expression, each once, in a fixed order."""
    if isinstance(expression, ufl.Form):
        found = list(expression.coefficients())
        constants = [
            c for i in expression.integrals() for c in extract_firedrake_constants(i.integrand())
        ]
    else:
        found = list(extract_coefficients(expression))
        constants = list(extract_firedrake_constants(expression))
    return list(dict.fromkeys([*found, *constants]))


def meshes_of(expression: Any) -> list[Any]:
    """The meshes of a form or an expression, each once, those of mixed spaces one by one."""
    return list(dict.fromkeys(m for domain in extract_domains(expression) for m in domain.meshes))


def check_split(u: fd.Function, values: Iterable[Value]) -> None:
    """Refuse parts of a mixed unknown that stand for themselves, with the values they have now.

    Raises
    ------
    ValueError
        If one of ``values`` is ``u.subfunctions[i]`` or ``u.sub(i)``.
    """
    if len(u.function_space()) == 1:
        return
    held = set(values)
    for i, part in enumerate(u.subfunctions):
        if part in held:
            raise ValueError(
                f"part {i} of the unknown {u.name()} stands in the problem as "
                f"u.subfunctions[{i}] or u.sub({i}), which has the values of the initial guess: "
                f"write split(u)[{i}], in the form and in the operands of networks."
            )


def version(value: Value) -> tuple:
    """Changes whenever the data of ``value`` may have changed."""
    if isinstance(value, fd.Constant):
        return (value.dat.data_ro.tobytes(),)
    return (id(value.dat), value.dat.dat_version)


class CoordinateState:
    """Tells whether a mesh has moved, by the coordinates' values.

    Their version alone says too much: pyadjoint assigns the same coordinates again whenever
    it evaluates a block of Firedrake's.
    """

    def __init__(self, mesh: Any):
        self._data = mesh.coordinates.dat  # not the mesh, which is kept by what it is the key of
        self._known: tuple[int, int] | None = None

    def __call__(self) -> int:
        """A checksum of this rank's coordinates."""
        present = self._data.dat_version
        if self._known is None or self._known[0] != present:
            data = np.ascontiguousarray(self._data.data_ro)
            self._known = (present, zlib.crc32(data.data))
        return self._known[1]


class Mirrors:
    """Private copies of Functions, Cofunctions and Constants.

    Parameters
    ----------
    sources
        The user's Functions, Cofunctions and Constants.

    Attributes
    ----------
    copies : dict
        Source to private copy.
    """

    @no_annotations
    def __init__(self, sources: Iterable[Value]):
        self.copies: dict[Value, Value] = {s: _empty_copy(s) for s in sources}
        comms = [s.comm for s in self.copies if isinstance(s, FIELDS)]
        self._comm = max(comms, key=lambda comm: comm.size, default=None)

    def __call__(self, expression: Any) -> Any:
        """The same form or expression, written in the private copies."""
        return ufl.replace(expression, self.copies)

    @no_annotations
    def load(self, values: Mapping[Value, Value] | None = None) -> None:
        """Copy values in; the sources' own where ``values`` has none.  Collective.

        A copy that has the values already is left alone, so that its version (see
        :func:`version`) changes when its values do, and only then.
        """
        given = [s if values is None else values.get(s, s) for s in self.copies]
        pairs = list(zip(given, self.copies.values(), strict=True))
        differ = any_rank_each(self._comm, [not same_values(value, copy) for value, copy in pairs])
        for (value, copy), differs in zip(pairs, differ, strict=True):
            if differs:
                copy_values(value, copy)


def owned_values(u: Any) -> np.ndarray:
    """A copy of the degrees of freedom that this rank owns, those of all parts in one array."""
    with u.dat.vec_ro as v:
        return v.array_r.copy()


def copy_values(source: Any, target: Any) -> None:
    """Copy the data of a Function, Cofunction or Constant into another of the same space.

    Without what Firedrake's ``assign`` does to expressions, which costs as much as
    assembling a small form.
    """
    if type(source.dat) in (op2.Dat, op2.MixedDat) and type(target.dat) is type(source.dat):
        source.dat.copy(target.dat)
        target.dat.increment_dat_version()
    elif isinstance(target, fd.Constant):
        target.assign(source.dat.data_ro)  # it does not take a Constant that is a matrix
    else:
        target.assign(source)


def add_up(terms: Sequence[tuple[fd.Function, float]], total: fd.Function) -> None:
    """Let a Function be a sum of others on its space, each with its weight.

    As Firedrake's ``assign``, bit for bit, without taking an expression apart.
    """
    weights = np.array([weight for _, weight in terms])
    for part, *summands in zip(total.dat, *(field.dat for field, _ in terms), strict=True):
        if with_halos := all(summand.halo_valid for summand in summands):
            data = np.array([summand.data_ro_with_halos for summand in summands])
        else:
            data = np.array([summand.data_ro for summand in summands])
        summed = (data.T @ weights).T + 0.0  # no negative zeros
        if with_halos:
            part.data_wo_with_halos[...] = summed
            part.halo_valid = True
        else:
            part.data_wo[...] = summed


def same_values(a: Value, b: Value) -> bool:
    """Whether this rank's data are the same, bit by bit."""
    return all(_same_bits(p, q) for p, q in _parts(a, b))


def equal_values(a: Value, b: Value) -> bool:
    """Whether this rank's data are equal; zeros of either sign are, and so are NaNs.

    Firedrake's ``assign``, by which pyadjoint keeps values, makes a zero of a negative one.
    """
    return same_values(a, b) or all(np.array_equal(p, q, equal_nan=True) for p, q in _parts(a, b))


def _parts(a: Value, b: Value) -> list[tuple[np.ndarray, np.ndarray]]:
    parts = zip(a.dat, b.dat, strict=True) if isinstance(a, FIELDS) else [(a.dat, b.dat)]
    return [(p.data_ro, q.data_ro) for p, q in parts]


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equality in which a NaN equals itself, at the speed of reading both."""
    word = np.int64 if a.dtype.itemsize % 8 == 0 else np.uint8
    return a.dtype == b.dtype and np.array_equal(a.view(word), b.view(word))


def _empty_copy(source: Value) -> Value:
    if isinstance(source, fd.Constant):
        return fd.Constant(source.dat.data_ro.reshape(source.ufl_shape), name=source.name)
    if isinstance(source, fd.Cofunction):
        return fd.Cofunction(source.function_space(), name=source.name())
    if isinstance(source, fd.Function):
        if source.function_space().component is not None:
            raise NotImplementedError(
                f"{source.name()} is a component of another Function, which the tape does not know "
                "as a part of it: write g[0] for g.sub(0), in forms and as an operand."
            )
        return fd.Function(source.function_space(), name=source.name())
    raise NotImplementedError(
        f"a form with neural coefficients depends on {source!r}, a {type(source).__name__}: "
        "only Functions and Constants are supported."
    )
