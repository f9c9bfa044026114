"""NeuralCoefficient: a network as a UFL coefficient at quadrature points or nodes."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import no_annotations
from torch import nn
from ufl.algorithms import extract_coefficients
from ufl.classes import Variable

from femnn.coefficient.arguments import checked_operands, n_components, points_of, space_of
from femnn.coefficient.computed import ComputedFunction
from femnn.coefficient.rules import gradient, holds, reach_through
from femnn.evaluation.evaluator import PointEvaluator
from femnn.evaluation.interpolated import evaluator_for
from femnn.fields.copies import CoordinateState, dependencies_of, version
from femnn.fields.stamp import Stamp, Validity
from femnn.networks.mlp import Gradient, Jacobian
from femnn.parallel import on_all_ranks, range_over_ranks
from femnn.points.block import EvaluationBlock
from femnn.points.map import PointMap
from femnn.points.operands import flatten, mesh_of
from femnn.points.pointset import PointSet
from femnn.points.rules import asked_degree
from femnn.tape.weights import Weights


class NeuralCoefficient(ComputedFunction):
    """A coefficient whose values are ``net(operands)`` at quadrature points (or nodes).

    Use it in a form as any other coefficient, and solve and assemble such forms with
    :class:`~femnn.NeuralVariationalSolver`, :func:`femnn.solve` and :func:`femnn.assemble`.
    Measures in which it stands take its quadrature degree.

    Parameters
    ----------
    net
        Any :class:`torch.nn.Module` that maps ``(points, inputs)`` to ``(points, outputs)``,
        each point on its own, on any device and in any floating dtype.
    *operands
        UFL expressions: the unknown, its gradient, ``SpatialCoordinate``, other Functions,
        Constants.  Each component of a vector or tensor operand is one input of the network.
    degree
        Degree of the quadrature rule.  By default the measure's, and without one 2 p + 2, with p
        the highest polynomial degree among the operands' Functions and the mesh's coordinates.
    measure
        Where the points are: ``dx`` (cells), ``ds`` (exterior facets: a law of the boundary)
        or ``dS`` (interior facets: operands that jump are ``u("+")``, ``u("-")``, ``avg(u)``,
        ``jump(u)``; a law of both sides should not depend on which is called ``"+"``).  On
        extruded meshes ``ds_v``, ``ds_t``, ``ds_b``, ``dS_v`` and ``dS_h``.  The network is
        evaluated on all of them; a subdomain is chosen by the integral that it stands in.
    space
        A function space whose degrees of freedom are point values: the network is then
        evaluated at its nodes, and the coefficient is a Function on it, for Dirichlet data,
        initial states, fields and parameters of elements.  Such a coefficient must not
        depend on the unknown.
    shape
        Shape of the values.  By default ``()`` for one output and ``(n,)`` for n outputs.
    mesh
        The mesh; needed only where no operand tells it.
    chunk_size
        Number of points that are evaluated together.
    device
        Where the network is moved: ``"cuda"`` (of several the rank's), ``"cuda:1"``, ``"cpu"``, or
        ``"auto"``, the fastest, measured at the first sweep (``evaluator.seconds``).
    name
        Name of the coefficient.

    Attributes
    ----------
    weights : Weights
        The network's weights, a pyadjoint control: ``Control(kappa.weights)``.
    net : torch.nn.Module
        The network.
    operands : tuple
        The operands.
    inputs : ufl.core.expr.Expr
        All their components as one UFL vector.
    degree : int or None
        The quadrature degree; ``None`` at nodes.
    points : PointSet
        The points.

    Raises
    ------
    TypeError
        If ``net`` is not a torch module, or an operand is not a UFL expression.
    ValueError
        If the network does not take the operands, or the mesh is not known.

    Notes
    -----
    The values (``kappa.dat``) are rank-local, one row for each quadrature point of a cell
    that the rank owns.  They are as of the last solve, :func:`femnn.assemble` or
    :meth:`update`; using them after weights or operands have changed is an error.
    Firedrake's own variational solvers refuse a law of the unknown, which femnn's take.

    Between quadrature points there are no values: Firedrake's ``interpolate``, ``VTKFile`` and
    ``PointEvaluator`` refuse such a coefficient, and so does its ``assemble`` for ``grad(kappa)``,
    which :func:`femnn.assemble` and the solvers take by the chain rule.  Evaluate the network at
    the nodes of a space V for a field, ``NeuralCoefficient(net, *operands, space=V).update()``,
    or ``project(kappa.update(), V)``.

    References
    ----------
    S. K. Mitusch, S. W. Funke, M. Kuchta: Hybrid FEM-NN models, J. Comput. Phys. 446 (2021).

    Examples
    --------
    >>> kappa = NeuralCoefficient(MLP(1, 30, 30, 1, output="softplus"), u)
    >>> F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    >>> femnn.solve(F == 0, u, bcs=bcs)
    """

    @no_annotations
    def __init__(
        self,
        net: nn.Module,
        *operands: Any,
        degree: int | None = None,
        measure: ufl.Measure = ufl.dx,
        space: Any = None,
        shape: tuple[int, ...] | None = None,
        mesh: Any = None,
        chunk_size: int | None = None,
        device: Any = None,
        name: str | None = None,
    ):
        operands = checked_operands(operands)
        mesh = mesh or (mesh_of(operands) if space is None else space.mesh())
        points = points_of(mesh, operands, degree, measure, space)
        n_inputs = n_components(operands)
        evaluator = on_all_ranks(mesh.comm, evaluator_for, net, n_inputs, chunk_size, device)
        space = space_of(points, evaluator.n_outputs, type(net).__name__, shape, space)
        self.measure = measure
        self.has_default_degree = degree is None and asked_degree(measure) is None
        self._set_up(evaluator, operands, points, space, name or f"N[{type(net).__name__}]")

    def _set_up(
        self,
        evaluator: PointEvaluator,
        operands: tuple[Any, ...],
        points: PointSet,
        space: Any,
        name: str,
    ) -> None:
        self.evaluator, self.net = evaluator, evaluator.net
        self.operands, self.inputs = operands, points.accept(flatten(operands))
        self.points, self.degree = points, points.degree
        self.weights = Weights.of(self.net, points.mesh.comm)
        self._moved = CoordinateState(points.mesh)
        self._evaluated = Validity(points.mesh.comm)
        self.others: WeakValueDictionary[tuple, NeuralCoefficient] = WeakValueDictionary()
        super().__init__(space, name, self._evaluation)

    def _like(self, evaluator: PointEvaluator, operands: tuple[Any, ...]) -> NeuralCoefficient:
        """The same in all else."""
        new = NeuralCoefficient.__new__(NeuralCoefficient)
        new.measure, new.has_default_degree = self.measure, self.has_default_degree
        new._set_up(evaluator, operands, self.points, self.function_space(), self.name())
        return new

    @no_annotations
    def with_operands(self, *operands: Any) -> NeuralCoefficient:
        """The same law of other operands.

        Parameters
        ----------
        *operands
            UFL expressions with as many components together as the present ones.

        Returns
        -------
        NeuralCoefficient
            With the same network and weights, at the same points, of the same shape and name.

        Raises
        ------
        NotImplementedError, TypeError
            If an operand is not one; see the class.
        ValueError
            If the number of components differs, or an operand has no single value at the points.
        """
        operands = checked_operands(operands)
        given, wanted = n_components(operands), self.evaluator.n_inputs
        if given != wanted:
            raise ValueError(
                f"{self.name()}.with_operands() got operands of {given} components together, "
                f"wanted {wanted}: as many as {self.name()} has."
            )
        return self._like(self.evaluator, operands)

    @no_annotations
    def __deepcopy__(self, memo: dict) -> NeuralCoefficient:
        """The same law of the same operands, with a copy of the network, and so its own weights."""
        known = self.evaluator
        net = deepcopy(self.net, memo)
        return self._like(evaluator_for(net, known.n_inputs, known.chunk_size), self.operands)

    def _check_present(self) -> None:
        if not self._evaluated.holds_here(self._present_state()):
            raise RuntimeError(
                f"the values of {self.name()} are out of date: its weights or operands have "
                "changed since it was evaluated. Use femnn.assemble and femnn.solve for forms "
                "with neural coefficients, or call update() on the coefficient first."
            )

    @property
    def values_between(self) -> bool:
        """Whether the values are those of nodes, between which the space interpolates."""
        return self.degree is None

    @property
    def mesh(self) -> Any:
        """The mesh on whose cells the network is evaluated."""
        return self.function_space().mesh()

    @cached_property
    def dependencies(self) -> list[fd.Function | fd.Constant]:
        """The Functions and Constants in the operands."""
        return dependencies_of(self.inputs)

    @cached_property
    def map(self) -> PointMap:
        """The network at its points, in private copies of what the operands hold."""
        return PointMap(self.evaluator, self.inputs, self.points)

    @no_annotations
    def update(self) -> NeuralCoefficient:
        """Evaluate the network at the operands' and weights' present values.  Collective.

        Does nothing where neither has changed.  :func:`femnn.assemble` and the solvers call
        it; call it before this coefficient is used elsewhere, as in ``project(kappa, V)``.

        Returns
        -------
        NeuralCoefficient
            This one.

        Raises
        ------
        RuntimeError
            If the weights differ between ranks, or a network raises an error on another rank.
        ValueError
            If the weights are not finite.
        """
        self.weights.check_ranks(self.mesh.comm)
        present = on_all_ranks(self.mesh.comm, self._present_state)
        if not self._evaluated.holds(present):
            inputs = self.map.load()
            self.weights.check(self.weights.vector)
            self.points.fill(self.topological, self.map.values(inputs))
            self._evaluated.note(present)
        return self

    @no_annotations
    def set_values(self, values: fd.Function) -> None:
        """Take values that a solver has computed at the present weights and operands.

        Parameters
        ----------
        values
            Function on the same space.
        """
        self.topological.dat.data_wo[...] = values.dat.data_ro
        self._evaluated.note(self._present_state())

    @no_annotations
    def visited(self) -> np.ndarray:
        """The range of each operand at the points, at the operands' present values.  Collective.

        Points of facets are those of all facets of the measure's kind.

        Returns
        -------
        numpy.ndarray
            Smallest and largest value of each input over all ranks, shape ``(n_inputs, 2)``, the
            same on every rank; NaN where a value is NaN, or no rank has a point.
        """
        return range_over_ranks(self.mesh.comm, self.map.load())

    def grad(self) -> Any:
        """The gradient in space, by the chain rule: a UFL expression for use in forms.

        The sum over the inputs of (d net / d input) grad(input).  The derivative of the
        network is another neural coefficient with the same weights, at the same points.

        Returns
        -------
        ufl.core.expr.Expr
            A vector.

        Raises
        ------
        NotImplementedError
            If the network has several outputs, or the points are on interior facets.
        """
        return gradient(self)

    def __ne__(self, other: Any) -> bool:
        """Not a variable in the operands: ``ufl.diff`` of it alone would take it for a constant."""
        return not (self == other or (isinstance(other, Variable) and holds(self, other)))

    @cached_property
    def slope(self) -> NeuralCoefficient:
        """D net / d inputs; shape ``(n_inputs,)``, of several outputs ``(n_outputs, n_inputs)``."""
        n, m = self.evaluator.n_inputs, self.evaluator.n_outputs
        kind, shape = (Gradient, (n,)) if m == 1 else (Jacobian, (m, n))
        new = NeuralCoefficient(
            kind(self.net),
            *self.operands,
            degree=self.degree,
            measure=self.measure,
            shape=shape,
            mesh=self.mesh,
            chunk_size=self.evaluator.chunk_size,
            name=f"d{self.name()}",
        )
        new.has_default_degree = self.has_default_degree
        return new

    @property
    def sources(self) -> list[Any]:
        """What the values are computed from: the weights, and :attr:`dependencies`."""
        return [self.weights, *self.dependencies]

    def _evaluation(self) -> EvaluationBlock:
        """The tape's block of the present values."""
        name = f"evaluate({self.name()})"
        return EvaluationBlock(self.map, self.weights, [self.function_space()], name)

    def _present_state(self) -> Stamp:
        own = self.weights.vector.tobytes(), self.evaluator.version(), self._moved()
        return Stamp((*own, *map(version, self.dependencies)))


reach_through(NeuralCoefficient)


def neural_coefficients(form: Any) -> list[NeuralCoefficient]:
    """The neural coefficients in a form or expression, each once."""
    coefficients = form.coefficients() if isinstance(form, ufl.Form) else extract_coefficients(form)
    return [c for c in coefficients if isinstance(c, NeuralCoefficient)]
