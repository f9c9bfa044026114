"""Integrals as what is observed: averages over regions, fluxes through boundary parts, others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import firedrake as fd
import numpy as np
import torch
import ufl
from pyadjoint import AdjFloat
from pyadjoint.tape import no_annotations
from torch import Tensor, nn

from femnn.autograd.apply import apply
from femnn.coefficient.assembly import assemble
from femnn.fields.copies import CoordinateState
from femnn.observation.observable import Observable, checked_names, listed
from femnn.parallel import any_rank
from femnn.tape.vector import Vector

Region = Any  # a subdomain's id, several of them, or a measure


class Functionals(Observable):
    """Numbers that a function of the user's makes of the model, as what is observed.

    Parameters
    ----------
    mesh
        A mesh of the model, whose ranks call together.
    names
        One for each number.
    function
        Called with what is observed, ``function(u)``; returns as many forms without arguments,
        which are assembled, or numbers that are the same on every rank.

    Attributes
    ----------
    names : tuple of str
        The names.

    Raises
    ------
    TypeError
        If the function cannot be called.
    ValueError
        If a name stands twice, or there is none.

    Examples
    --------
    >>> energy = Functionals(mesh, ["energy"], lambda u: [inner(grad(u), grad(u)) * dx])
    >>> data = Observations(energy, [3.2], std=0.1)
    """

    def __init__(self, mesh: Any, names: Iterable[Any], function: Callable[[Any], Sequence[Any]]):
        if not callable(function):
            raise TypeError(
                f"Functionals got a {type(function).__name__} as its function: wanted one that "
                "returns forms, as in lambda u: [u * dx, u**2 * dx]."
            )
        self.mesh, self.comm, self._function = mesh, mesh.comm, function
        self.names = _some_names("Functionals", names)

    def __call__(self, u: Any) -> Vector:
        """The numbers; recorded.  Collective.

        Parameters
        ----------
        u
            What the function takes.

        Returns
        -------
        Vector
            Shape ``(n,)`` in the order of the names, the same on every rank.

        Raises
        ------
        ValueError
            If the function returns another number of forms than there are names.
        """
        given = list(self._function(u))
        if len(given) != len(self):
            raise ValueError(
                f"Functionals: the function returned {len(given)} forms or numbers, wanted "
                f"{len(self)}: one for each of {listed(self.names)}."
            )
        return _numbers(given, self.comm, (len(self),))

    def __repr__(self) -> str:
        return f"Functionals({listed(self.names, 3)})"


class _OverRegions(Observable):
    """Integrals over regions of a mesh, which have names."""

    _kind = "dx"

    @no_annotations
    def __init__(self, mesh: Any, regions: Mapping[str, Region]):
        who = type(self).__name__
        if not isinstance(regions, Mapping):
            raise TypeError(
                f"{who} got a {type(regions).__name__}: wanted a dictionary of names and "
                "subdomains, as in {'left': 1, 'right': (2, 3)}."
            )
        self.mesh, self.comm = mesh, mesh.comm
        self.names = _some_names(who, regions)
        whole = ufl.Measure(self._kind, domain=mesh)
        self._measures = [_measure(who, whole, region) for region in regions.values()]
        self._moved = CoordinateState(mesh)
        self._where: int | None = None
        self._sizes = np.zeros(0)
        self._update_sizes()

    def __call__(self, u: Any) -> Vector:
        """The numbers of a field or an expression; recorded.  Collective.

        Parameters
        ----------
        u
            A Function or an expression; it may hold neural coefficients.

        Returns
        -------
        Vector
            Shape ``(n, ...)`` in the order of the names, with the shape of the values behind, the
            same on every rank.

        Raises
        ------
        TypeError
            If ``u`` is no expression.
        """
        try:
            expression = ufl.as_ufl(u)
        except ValueError as error:
            raise TypeError(
                f"{type(self).__name__} got a {type(u).__name__}: wanted a Function or an "
                "expression."
            ) from error
        self._update_sizes()
        integrand = self._integrand(expression)
        indices = list(np.ndindex(integrand.ufl_shape))
        forms = [
            self._form(integrand[index] if index else integrand, i)
            for i in range(len(self))
            for index in indices
        ]
        return _numbers(forms, self.comm, (len(self), *integrand.ufl_shape))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({listed(self.names, 3)})"

    @abstractmethod
    def _integrand(self, expression: Any) -> Any:
        """What is integrated."""

    @abstractmethod
    def _form(self, integrand: Any, i: int) -> Any:
        """The form of the i-th region."""

    @no_annotations
    def _update_sizes(self) -> None:
        """The regions' sizes, where the mesh is now."""
        if not any_rank(self.comm, self._moved() != self._where):
            return
        pairs = zip(self.names, self._measures, strict=True)
        self._sizes = np.array([self._size(name, measure) for name, measure in pairs])
        self._where = self._moved()

    def _size(self, name: str, measure: ufl.Measure) -> float:
        size, why = 0.0, ""
        try:
            size = fd.assemble(fd.Constant(1.0) * measure)
        except (LookupError, ValueError) as error:  # no rank has the number
            why = f" ({error.args[0]})"
        if not size > 0:
            raise ValueError(
                f"{type(self).__name__}: {name!r} has no cells or facets on this mesh{why}: look "
                "for the subdomain's number."
            )
        return size


class Averages(_OverRegions):
    """Averages over regions, or over parts of the boundary, as what is observed.

    Parameters
    ----------
    mesh
        The mesh.
    regions
        Name to a subdomain's number, several of them, ``"everywhere"``, or a measure such as
        ``ds(3)``.

    Attributes
    ----------
    names : tuple of str
        The regions' names.

    Raises
    ------
    TypeError
        If ``regions`` is no dictionary.
    ValueError
        If there is no region, or one has no cells.

    Notes
    -----
    Each region has an assembler of its own, with copies of the fields in the expression.

    Examples
    --------
    >>> layers = Averages(mesh, {"upper": 1, "lower": 2})
    >>> data = Observations(layers, [12.5, 9.0], std=0.1, units="°C")
    """

    def _integrand(self, expression: Any) -> Any:
        return expression

    def _form(self, integrand: Any, i: int) -> Any:
        return integrand * fd.Constant(1 / self._sizes[i]) * self._measures[i]


class Fluxes(_OverRegions):
    """Fluxes out of a mesh through parts of its boundary, as what is observed.

    Of a vector ``q`` the integral of ``dot(q, n)``, with the normal ``n`` that points out; of a
    scalar, which is the flux's density already, its integral.

    Parameters
    ----------
    mesh
        The mesh.
    parts
        Name to a boundary part's number, several of them, ``"everywhere"``, or a measure such as
        ``ds_t``.

    Attributes
    ----------
    names : tuple of str
        The parts' names.

    Raises
    ------
    TypeError
        If ``parts`` is no dictionary.
    ValueError
        If there is no part, or one has no facets.

    Examples
    --------
    >>> outlets = Fluxes(mesh, {"river": 3, "drain": (5, 6)})
    >>> data = Observations(outlets, discharge, std=0.1, times=days, units="m3/d")
    >>> observe = data.start()
    >>> observe(-k * grad(h), t)
    """

    _kind = "ds"

    @no_annotations
    def __init__(self, mesh: Any, parts: Mapping[str, Region]):
        super().__init__(mesh, parts)

    def _integrand(self, expression: Any) -> Any:
        if expression.ufl_shape == ():
            return expression
        normal = ufl.FacetNormal(self.mesh)
        if expression.ufl_shape != normal.ufl_shape:
            raise ValueError(
                f"Fluxes got an expression of shape {expression.ufl_shape}: wanted the flux, a "
                f"vector of shape {normal.ufl_shape}, or its normal component."
            )
        return ufl.dot(expression, normal)

    def _form(self, integrand: Any, i: int) -> Any:
        return integrand * self._measures[i]


def _measure(who: str, whole: ufl.Measure, region: Region) -> ufl.Measure:
    if isinstance(region, ufl.Measure):
        return region(domain=whole.ufl_domain())
    try:
        return whole(region)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{who} got {region!r} as a subdomain: wanted its number, a tuple of numbers, "
            "'everywhere' or a measure."
        ) from error


def _numbers(forms: Sequence[Any], comm: Any, shape: tuple[int, ...]) -> Vector:
    numbers = [assemble(form) if isinstance(form, ufl.Form) else form for form in forms]
    inputs = [
        n if isinstance(n, AdjFloat) else torch.tensor(float(n), dtype=torch.float64)
        for n in numbers
    ]
    return apply(_Stacked(shape), *inputs, into=Vector(np.zeros(shape), comm, "integrals"))


class _Stacked(nn.Module):
    """Numbers as one array."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self._shape = shape

    def forward(self, *numbers: Tensor) -> Tensor:
        return torch.stack(numbers).reshape(self._shape)


def _some_names(who: str, names: Iterable[Any]) -> tuple[str, ...]:
    checked = checked_names(who, names)
    if not checked:
        raise ValueError(f"{who} got no names: there is nothing to observe.")
    return checked
