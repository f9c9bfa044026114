"""Inner products of controls, and the coordinates in which they are Euclid's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import firedrake as fd
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import ufl

from femnn.fields.copies import is_real
from femnn.parallel import sum_over_ranks
from femnn.training.layout import Layout, rows_of


class Metric(Protocol):
    """An inner product ``x' K x`` of vectors ``x``, with ``K = C C'``.

    All vectors have one entry for each of the controls' numbers, and are the same on every rank;
    several may be the columns of a matrix.

    Attributes
    ----------
    is_diagonal : bool
        Whether each coordinate is a multiple of one number.
    """

    is_diagonal: bool

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """``C' x``: coordinates in which the inner product is Euclid's."""

    def point(self, y: np.ndarray) -> np.ndarray:
        """The vector with these coordinates."""

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """The gradient in the coordinates, from that in the numbers themselves: ``C^-1 g``."""

    def representer(self, g: np.ndarray) -> np.ndarray:
        """The gradient's Riesz representer, ``K^-1 g``."""


class Diagonal:
    """The inner product of a weight for each number.

    Parameters
    ----------
    weights
        Positive numbers.
    """

    is_diagonal = True

    def __init__(self, weights: np.ndarray):
        self._weights, self._roots = weights, np.sqrt(weights)

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return _scaled(self._roots, x)

    def point(self, y: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return _scaled(1 / self._roots, y)

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return _scaled(1 / self._roots, g)

    def representer(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return _scaled(1 / self._weights, g)


class Factorised:
    """The inner product of a sparse matrix.

    Parameters
    ----------
    matrix
        Symmetric and positive definite.
    free
        Which numbers may change, shape ``(n,)``; the matrix must not couple them to others.

    Raises
    ------
    ValueError
        If the matrix is not positive definite.
    """

    is_diagonal = False

    def __init__(self, matrix: scipy.sparse.csc_matrix, free: np.ndarray):
        # Without pivoting, LU of a symmetric matrix is L D L', in an order that keeps L sparse.
        lu = scipy.sparse.linalg.splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        pivots = lu.U.diagonal()
        if not (np.array_equal(lu.perm_r, lu.perm_c) and (pivots > 0).all()):
            raise ValueError("fit: the inner product of a riesz_map is not positive definite.")
        self._solve, self._free = lu.solve, free
        self._factor = (lu.L @ scipy.sparse.diags_array(np.sqrt(pivots))).tocsr()[lu.perm_r]
        self._transposed = self._factor.T.tocsr()

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._transposed @ x

    def point(self, y: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._solve(self._factor @ y)

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._transposed @ self.representer(g)

    def representer(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._solve(_scaled(self._free, g))


class Joined:
    """The inner product of several vectors, one after the other.

    Parameters
    ----------
    metrics
        One for each vector; ``None`` for Euclid's.
    ends
        Where in the joined vector each ends.
    """

    def __init__(self, metrics: Sequence[Metric | None], ends: np.ndarray):
        starts = [0, *ends[:-1]]
        places = [slice(a, b) for a, b in zip(starts, ends, strict=True)]
        self._parts = [(s, m) for s, m in zip(places, metrics, strict=True) if m is not None]

    @property
    def is_diagonal(self) -> bool:
        """See :class:`Metric`."""
        return all(metric.is_diagonal for _, metric in self._parts)

    @property
    def is_euclids(self) -> bool:
        """Whether coordinates and numbers are the same."""
        return not self._parts

    def coordinates(self, x: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._mapped("coordinates", x)

    def point(self, y: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._mapped("point", y)

    def gradient(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._mapped("gradient", g)

    def representer(self, g: np.ndarray) -> np.ndarray:
        """See :class:`Metric`."""
        return self._mapped("representer", g)

    def _mapped(self, what: str, vector: np.ndarray) -> np.ndarray:
        if self.is_euclids:
            return vector
        result = np.array(vector, dtype=float)
        for place, metric in self._parts:
            result[place] = getattr(metric, what)(vector[place])
        return result


def _scaled(factors: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A vector, or the columns of a matrix, entry by entry multiplied."""
    return (factors * x.T).T


def metric_of(field: fd.Function, layout: Layout, riesz_map: Any) -> Metric | None:
    """The inner product that ``Control(field, riesz_map=...)`` asks for.  Collective.

    Parameters
    ----------
    field
        The control.
    layout
        Its values as a vector.
    riesz_map
        As pyadjoint's: ``"L2"`` (also for ``None``), ``"H1"``, ``"l2"``, the same as UFL's
        Sobolev spaces, or a :class:`firedrake.RieszMap`.

    Returns
    -------
    Metric or None
        ``None`` for Euclid's, of the values of degrees of freedom.

    Raises
    ------
    TypeError
        If it is another function, whose inner product is not known.
    ValueError
        If it is unknown, or cannot be assembled on this space.
    """
    space, name = field.function_space(), str(riesz_map or "L2")
    inner_product = getattr(riesz_map, "_inner_product", None)
    if isinstance(inner_product, str):  # the only one that is no form is "l2"
        name = inner_product
    if name == "l2":
        return None
    if isinstance(inner_product, ufl.Form):
        return _factorised(inner_product, field, layout, riesz_map._bcs)
    if callable(riesz_map):
        raise TypeError(
            f"fit: the riesz_map of {field.name()} is a {type(riesz_map).__name__}, whose inner "
            "product is not known: wanted 'L2', 'H1', 'l2' or a firedrake.RieszMap of a form."
        )
    if name not in ("L2", "H1"):
        raise ValueError(
            f"fit: the riesz_map of {field.name()} is {riesz_map!r}: wanted 'L2', 'H1', 'l2' or "
            "a firedrake.RieszMap of a form."
        )
    if name == "H1" and not is_real(space):
        u, v = fd.TrialFunction(space), fd.TestFunction(space)
        form = fd.inner(u, v) * fd.dx + fd.inner(fd.grad(u), fd.grad(v)) * fd.dx
        return _factorised(form, field, layout, None)
    return Diagonal(layout.gather(np.concatenate([_lumped(field, s) for s in space.subspaces])))


def _lumped(field: fd.Function, part: Any) -> np.ndarray:
    """The mass matrix's diagonal, scaled to the mass of the field whose values are all one.

    Hinton, Rock and Zienkiewicz, Earthquake Eng. Struct. Dyn. 4 (1976): it is positive for every
    element, and equivalent to the mass matrix with constants that do not depend on the mesh.
    """
    space = part.collapse()
    one = fd.Function(space)
    one.dat.data_wo[...] = 1.0
    measure = _measure(space)
    with _explained(field, "L2"):
        mass = fd.assemble(fd.inner(one, one) * measure)
        if is_real(space):
            values = one.dat.data_ro
            return np.full(values.size, mass / values.size)
        form = fd.inner(fd.TrialFunction(space), fd.TestFunction(space)) * measure
        diagonal = fd.assemble(form, diagonal=True).dat.data_ro.ravel()
    trace = sum_over_ranks(space.comm, np.array([diagonal.sum()]))[0]
    return diagonal * (mass / trace)


def _measure(space: Any) -> Any:
    """The integral over the cells, by a Quadrature space's own rule."""
    element = space.ufl_element()
    mesh = space.mesh()
    if "Quadrature" in element.family():
        return fd.dx(domain=mesh, degree=element.embedded_superdegree)
    return fd.dx(domain=mesh)


def _factorised(form: Any, field: fd.Function, layout: Layout, bcs: Any) -> Factorised:
    with _explained(field, "given"):
        assembled = fd.assemble(form, bcs=bcs, mat_type="aij")
    rows = rows_of(assembled.petscmat, field.function_space().comm)
    size = len(layout)
    matrix = scipy.sparse.csr_array((rows[2], rows[1], rows[0]), shape=(size, size)).tocsc()
    free = fd.Function(field.function_space())
    for dat in free.dat.split:
        dat.data_wo[...] = 1.0
    for bc in [bcs] if isinstance(bcs, fd.DirichletBC) else bcs or ():
        bc.zero(free)
    return Factorised(matrix, layout.gather(layout.own(free)))


@contextmanager
def _explained(field: fd.Function, which: str) -> Iterator[None]:
    """What Firedrake says of an inner product that it cannot assemble, with the cure."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"fit: the {which} inner product of {field.name()} cannot be assembled on its space: "
            f"make its control by Control({field.name()}, riesz_map='l2'), or with a "
            "firedrake.RieszMap of a form that can."
        ) from error
