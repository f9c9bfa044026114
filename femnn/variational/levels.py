"""Coarser levels of a solver: networks there, and values at points that get there.

Firedrake's multigrid writes a problem's forms on a coarser mesh, or in elements of a lower degree,
and takes the values of what stands in them there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from firedrake import dmhooks
from firedrake.mg.ufl_utils import coarsen
from firedrake.solving_utils import _SNESContext
from scipy.spatial import cKDTree

from femnn.points.places import points_of_measure
from femnn.points.pointset import PointSet
from femnn.points.rules import FACETS, facet_element
from femnn.variational.network import LevelNetwork, NetworkField


def enable_levels(solver: fd.NonlinearVariationalSolver, fields: Iterable[Any]) -> None:
    """Let a solver's multigrid take values at points to coarser levels.

    Parameters
    ----------
    solver
        The solver.
    fields
        The Functions and Constants in its forms, and in its networks' operands.
    """
    solver._ctx.__class__ = _Context
    found = [_at_points(f) for f in fields if isinstance(f, fd.Function)]
    elements = {element for pairs in found for element, _ in pairs}
    if not elements:
        return
    with solver.inserted_options():
        manager = solver._ctx.transfer_manager
    transfers = getattr(manager, "native_transfers", {})
    to_points = _ToCoarserPoints()
    for element in elements:
        transfers.setdefault(element, (None, None, to_points))


def _at_points(function: fd.Function) -> list[tuple[Any, int]]:
    """The elements of a Function's parts that are values at a rule's points; the rules' degrees."""
    elements = [space.ufl_element() for space in function.function_space().subspaces]
    return [(e, d) for e in elements if (d := _degree(e)) is not None]


def _degree(element: Any) -> int | None:
    factors = getattr(_scalar(element), "factor_elements", [_scalar(element)])
    rules = [f.embedded_superdegree for f in factors if "Quadrature" in f.family()]
    return max(rules, default=None)


def _scalar(element: Any) -> Any:
    parts = element.sub_elements
    return parts[0] if parts and element.family() != "TensorProductElement" else element


# Meshes


@coarsen.register(NetworkField)
def _coarser(field: NetworkField, self: Any, coefficient_mapping: dict | None = None) -> Any:
    """The network's values or derivatives on the next coarser mesh, with coarser operands."""
    mapping = {} if coefficient_mapping is None else coefficient_mapping
    if field not in mapping:
        finer = field.network
        at = finer.points.at
        assert at.degree is not None, "a network of the unknown is at points of a rule"
        points = points_of_measure(self(at.mesh, self), at.degree, at.integral_type)
        with _transferable(finer.depends_on, field):
            operands = self(finer.terms.operands, self, coefficient_mapping=mapping)
        coarser = LevelNetwork(finer, operands, points)
        mapping[finer.terms.value] = coarser.terms.value
        mapping[finer.terms.slope] = coarser.terms.slope
    return mapping[field]


@contextmanager
def _transferable(values: Iterable[Any], field: NetworkField) -> Iterator[None]:
    """Lend the solver's way to coarser levels to Functions that stand in operands alone."""
    context = dmhooks.get_appctx(field.function_space().dm)
    with ExitStack() as lent:
        for function in (f for f in values if isinstance(f, fd.Function)):
            dm = function.function_space().dm
            if dmhooks.get_appctx(dm) is None:
                dmhooks.push_appctx(dm, context)
                lent.callback(dmhooks.pop_appctx, dm, context)
        yield


class _ToCoarserPoints:
    """Gives Functions at a rule's points their values on the next coarser mesh.

    Those of networks are evaluated there.  Data, among them networks that do not depend on the
    unknown, have the value of the nearest finer point of a rank's own: they are known there only.
    """

    def __init__(self) -> None:
        self._nearest: dict[Any, list[tuple[Any, Any, np.ndarray]]] = {}

    def __call__(self, fine: fd.Function, coarse: fd.Function) -> None:
        """Fill the Function on the coarser mesh.  Collective."""
        if isinstance(coarse, NetworkField):
            coarse.network.update()
            return
        finer, coarser = (f.function_space().mesh() for f in (fine, coarse))
        element = _scalar(coarse.function_space().ufl_element())
        key = (finer, coarser, element)
        if key not in self._nearest:
            self._nearest[key] = list(_nearest(finer, coarser, element))
        values, target = fine.dat.data_ro, coarse.dat.data_wo
        target[...] = 0.0
        for there, here, nearest in self._nearest[key]:
            target[there] = values[here][nearest]


def _nearest(fine: Any, coarse: Any, element: Any) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """For each kind of place: the coarse points, the fine points, and which of these is nearest."""
    for there, here in zip(_places(coarse, element), _places(fine, element), strict=True):
        positions = [points.values_of(_position(points))().copy() for points in (here, there)]
        if len(positions[0]):
            _, nearest = cKDTree(positions[0]).query(positions[1])
            yield _rows(there), _rows(here), nearest


def _places(mesh: Any, element: Any) -> list[PointSet]:
    degree = _degree(element)
    assert degree is not None, "only elements with values at points are asked for"
    if element.family() == "Quadrature":
        return [points_of_measure(mesh, degree)]
    suits = [(t.split("_")[-1] == "facet") != bool(mesh.extruded) for t in FACETS]
    kinds = [t for t, suit in zip(FACETS, suits, strict=True) if suit]
    kinds = [t for t in kinds if facet_element(mesh, degree, t) == element]
    return [points_of_measure(mesh, degree, kind) for kind in kinds]


def _position(points: PointSet) -> Any:
    return points.accept(ufl.SpatialCoordinate(points.mesh))


def _rows(points: PointSet) -> Any:
    return getattr(points, "chosen", slice(None))


# Elements of a lower degree


class LevelProblem(fd.NonlinearVariationalProblem):
    """A problem whose boundary values may be Functions, also where it is written on other spaces.

    Firedrake takes a condition's Function to the other space as it is, where it does not fit.
    """

    def rediscretise(self, **kwargs: Any) -> fd.NonlinearVariationalProblem:
        """See Firedrake's; values are interpolated wherever they are applied."""
        u = kwargs.get("u")
        values = all(isinstance(bc, fd.DirichletBC) for bc in self.bcs)
        given = kwargs.get("bcs") is not None or kwargs.get("homogenize_bcs")
        if u is not None and values and not given:
            space, one = u.function_space(), fd.Constant(1.0)
            kwargs["bcs"] = [
                bc.reconstruct(V=space, indices=bc._indices, g=one * bc.function_arg)
                for bc in self.bcs
            ]
        return super().rediscretise(**kwargs)


class _Context(_SNESContext):
    """Firedrake's context of a problem, which keeps the rules of values at points.

    Where a problem is written in elements of a lower degree, Firedrake lowers the degrees of the
    rules too, but the values are known at the points that they have.
    """

    def set_function(self, snes: Any) -> None:
        """See Firedrake's; nonlinear multigrid's coarser levels get callbacks of their own.

        PETSc copies to them a pointer to the finest level's, which petsc4py frees when these are
        set again.
        """
        super().set_function(snes)
        level = self._coarse if snes.getType() == "fas" else None
        while level is not None:
            level._problem.dm.setSNESFunction(self.form_function)
            level._problem.dm.setSNESJacobian(self.form_jacobian)
            level = level._coarse

    def reconstruct(self, problem: Any = None, *args: Any, **kwargs: Any) -> _SNESContext:
        """See Firedrake's; the context of a coarser level is of this kind too."""
        if problem is not None:
            self._write_here(problem)
        appctx = kwargs.get("appctx") or {}
        given = {k: with_rules(v) if isinstance(v, ufl.Form) else v for k, v in appctx.items()}
        if appctx:
            kwargs["appctx"] = given
        new = super().reconstruct(problem, *args, **kwargs)
        new.__class__ = _Context
        return new

    def _write_here(self, problem: Any) -> None:
        """Write a problem's forms in networks of its own unknown, at the points that they have."""
        own = self._networks_of(problem)
        for name in ("F", "J", "Jp", "E"):
            form = getattr(problem, name)
            if isinstance(form, (ufl.Form, ufl.FormSum)):
                setattr(problem, name, with_rules(ufl.replace(form, own) if own else form))

    def _networks_of(self, problem: Any) -> dict[Any, Any]:
        """The networks in a residual in another unknown, each with one of that unknown.

        Where there is no residual, a preconditioner's matrix keeps the values of the finer unknown,
        which are better.
        """
        before, unknown = self._problem.u_restrict, problem.u_restrict
        spaces = before.function_space(), unknown.function_space()
        same = spaces[0].mesh() is spaces[1].mesh() and before.ufl_shape == unknown.ufl_shape
        if not same or spaces[0].ufl_element() == spaces[1].ufl_element():
            return {}
        written = isinstance(problem.F, (ufl.Form, ufl.FormSum))
        found = problem.F.coefficients() if written else ()
        networks = dict.fromkeys(f.network for f in found if isinstance(f, NetworkField))
        own = {}
        for network in networks:
            if before in network.depends_on:
                operands = ufl.replace(network.terms.operands, {before: unknown})
                coarser = LevelNetwork(network, operands, network.points.at)
                own[network.terms.value] = coarser.terms.value
                own[network.terms.slope] = coarser.terms.slope
        return own


def with_rules(form: Any) -> Any:
    """The form, also one with Cofunctions, with the degrees that values at points in it have."""
    if isinstance(form, ufl.FormSum):
        parts = [with_rules(c) if isinstance(c, ufl.Form) else c for c in form.components()]
        return ufl.FormSum(*zip(parts, form.weights(), strict=True))
    return ufl.Form([_with_rule(integral) for integral in form.integrals()])


def _with_rule(integral: ufl.Integral) -> ufl.Integral:
    functions = ufl.algorithms.extract_coefficients(integral.integrand())
    networks = [f.network for f in functions if isinstance(f, NetworkField)]
    degrees = [network.points.at.degree for network in networks]
    degrees += [d for f in functions for _, d in _at_points(f)]
    if not degrees or integral.metadata().get("quadrature_degree") == degrees[0]:
        return integral
    return integral.reconstruct(metadata={**integral.metadata(), "quadrature_degree": degrees[0]})
