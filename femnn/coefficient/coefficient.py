"""NeuralCoefficient: a network as a UFL coefficient at quadrature points or nodes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import firedrake as fd
import numpy as np
import ufl
from pyadjoint.tape import get_working_tape, no_annotations
from torch import nn
from ufl.algorithms import extract_coefficients
from ufl.domain import extract_domains

from femnn.coefficient.block import EvaluationBlock
from femnn.evaluation.evaluator import PointEvaluator, total_inputs
from femnn.fields.copies import CoordinateState, dependencies_of, version
from femnn.fields.derivatives import flatten
from femnn.networks.mlp import Gradient
from femnn.parallel import all_ranks, range_over_ranks
from femnn.points.map import PointMap
from femnn.points.pointset import PointSet
from femnn.points.rules import asked_degree, default_degree
from femnn.tape.weights import Weights


class NeuralCoefficient(fd.Function):
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
        Degree of the quadrature rule.  By default the measure's, and without one 2 p + 2, with
        p the highest polynomial degree among the Functions in the operands and the mesh's
        coordinates.
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
    at : PointSet
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
    Firedrake's own variational solvers would take the values as they are: a law of the
    unknown needs femnn's.

    References
    ----------
    S. K. Mitusch, S. W. Funke, M. Kuchta: Hybrid FEM-NN models, J. Comput. Phys. 446 (2021).

    Examples
    --------
    >>> kappa = NeuralCoefficient(MLP(1, 30, 30, 1, output="softplus"), u)
    >>> F = kappa * inner(grad(u), grad(v)) * dx - f * v * dx
    >>> femnn.solve(F == 0, u, bcs=bcs)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> NeuralCoefficient:
        """Pass over Firedrake's, which looks for a dual space in the first argument."""
        return object.__new__(cls)

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
        name: str | None = None,
    ):
        operands = _checked_operands(operands)
        mesh = mesh or (_mesh_of(operands) if space is None else space.mesh())
        at = _points_of(mesh, operands, degree, measure, space)
        n_inputs = total_inputs([op.ufl_shape for op in operands])
        evaluator = PointEvaluator(net, n_inputs, chunk_size)
        self.__dict__.update(
            net=net,
            operands=operands,
            inputs=at.on_sides(flatten(operands)),
            at=at,
            degree=at.degree,
            measure=measure,
            has_default_degree=degree is None and asked_degree(measure) is None,
            evaluator=evaluator,
            weights=Weights.of(net, mesh.comm),
            _moved=CoordinateState(mesh),
            _state=None,
            _recorded=None,
        )
        shape = shape if space is None else space.value_shape
        shape = _value_shape(shape, evaluator.n_outputs, type(net).__name__)
        super().__init__(
            at.space(shape) if space is None else space,
            name=name or f"N[{type(net).__name__}]",
            block_class=EvaluationBlock,
            _ad_floating_active=True,
            _ad_args=[self],
        )

    @property
    def dat(self) -> Any:
        """The values' data; an error where weights or operands have changed since."""
        self._check_present()
        return self.topological.dat

    def _check_present(self) -> None:
        if self._state != self._present_state():
            raise RuntimeError(
                f"the values of {self.name()} are out of date: its weights or operands have "
                "changed since it was evaluated. Use femnn.assemble and femnn.solve for forms "
                "with neural coefficients, or call update() on the coefficient first."
            )

    @property
    def mesh(self) -> Any:
        """The mesh on whose cells the network is evaluated."""
        return self.function_space().mesh()

    @cached_property
    def dependencies(self) -> list[fd.Function | fd.Constant]:
        """The Functions and Constants in the operands."""
        return dependencies_of(self.inputs)

    def depends_on(self, u: fd.Function) -> bool:
        """Whether ``u`` stands in an operand."""
        return u in self.dependencies

    @cached_property
    def map(self) -> PointMap:
        """The network at its points, in private copies of what the operands hold."""
        return PointMap(self.evaluator, self.inputs, self.at)

    @no_annotations
    def update(self) -> NeuralCoefficient:
        """Evaluate the network at the operands' and weights' present values.  Collective.

        Does nothing where neither has changed.  :func:`femnn.assemble` and the solvers call
        it; call it before this coefficient is used elsewhere, as in ``project(kappa, V)``.
        """
        self.weights.check_ranks(self.mesh.comm)
        state = self._present_state()
        if not all_ranks(self.mesh.comm, self._state == state):
            inputs = self.map.load()
            self.weights.check(self.weights.vector)
            self.at.fill(self.topological, self.map.values(inputs))
            self.__dict__["_state"] = state
        return self

    @no_annotations
    def set_values(self, values: fd.Function) -> None:
        """Take values that a solver has computed at the operands' present values."""
        self.topological.dat.data_wo[...] = values.dat.data_ro
        self.__dict__["_state"] = self._present_state()

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
        """
        if self.ufl_shape != ():
            raise NotImplementedError(
                f"{self.name()}.grad(): only for one output, this network has "
                f"{self.evaluator.n_outputs}. Use one coefficient for each output."
            )
        if self.at.between_cells:
            raise NotImplementedError(
                f"{self.name()}.grad(): a coefficient on interior facets has no gradient in space."
            )
        slope = self.slope
        terms = [slope[i] * ufl.grad(self.inputs[i]) for i in range(self.evaluator.n_inputs)]
        return sum(terms[1:], terms[0])

    @property
    def slope(self) -> NeuralCoefficient:
        """D net / d inputs as a coefficient of shape ``(n_inputs,)`` with the same weights."""
        if "_slope" not in self.__dict__:
            self.__dict__["_slope"] = NeuralCoefficient(
                Gradient(self.net),
                *self.operands,
                degree=self.degree,
                measure=self.measure,
                shape=(self.evaluator.n_inputs,),
                mesh=self.mesh,
                chunk_size=self.evaluator.chunk_size,
                name=f"d{self.name()}",
            )
        return self.__dict__["_slope"]

    def copy(self, deepcopy: bool = False) -> fd.Function:
        """The present values as an ordinary Function on the Quadrature space."""
        return fd.Function(self.function_space(), val=self.topological.copy(deepcopy=deepcopy))

    @cached_property
    def subfunctions(self) -> tuple[fd.Function, ...]:
        """The values as ordinary Functions that share this coefficient's data."""
        return fd.Function(self.function_space(), val=self.topological).subfunctions

    @cached_property
    def _components(self) -> tuple[fd.Function, ...]:
        return fd.Function(self.function_space(), val=self.topological)._components

    def _present_state(self) -> tuple:
        return (
            self.weights.vector.tobytes(),
            self.evaluator.state(),
            self._moved(),
            *(version(d) for d in self.dependencies),
        )

    def _ad_will_add_as_dependency(self) -> None:
        """Record the evaluation on the tape, unless the tape has it already."""
        self._check_present()
        sources = [self.weights, *self.dependencies]
        if not self._is_recorded([s.block_variable for s in sources]):
            super()._ad_will_add_as_dependency()
            place = len(get_working_tape().get_blocks()) - 1
            present = [s.block_variable for s in sources]
            self.__dict__["_recorded"] = (place, self.block, present)

    def _is_recorded(self, present: list[Any]) -> bool:
        """Whether the tape holds the evaluation of the same nodes."""
        if self._recorded is None:
            return False
        place, block, nodes = self._recorded
        blocks = get_working_tape().get_blocks()
        return place < len(blocks) and blocks[place] is block and nodes == present


def neural_coefficients(form: Any) -> list[NeuralCoefficient]:
    """The neural coefficients in a form or expression."""
    coefficients = form.coefficients() if isinstance(form, ufl.Form) else extract_coefficients(form)
    return [c for c in coefficients if isinstance(c, NeuralCoefficient)]


def _points_of(
    mesh: Any, operands: tuple[Any, ...], degree: int | None, measure: ufl.Measure, space: Any
) -> PointSet:
    if space is not None:
        if degree is not None:
            raise ValueError(
                f"NeuralCoefficient got space={space} and degree={degree}: a network is evaluated "
                "at a space's nodes or at quadrature points, give one of the two."
            )
        return PointSet.of_nodes(space)
    asked = asked_degree(measure)
    if None not in (degree, asked) and degree != asked:
        raise ValueError(
            f"NeuralCoefficient got degree={degree} and a measure of degree {asked}: give the "
            "degree once."
        )
    degree = asked if degree is None else degree
    degree = default_degree(mesh, operands) if degree is None else int(degree)
    return PointSet.of_rule(mesh, degree, measure.integral_type())


def _checked_operands(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    if not operands:
        raise ValueError(
            "NeuralCoefficient got a network but no operands: give at least one UFL expression, "
            "for example the unknown u or SpatialCoordinate(mesh)."
        )
    checked = []
    for op in operands:
        try:
            op = ufl.as_ufl(op)
        except ValueError as error:
            raise TypeError(
                f"operand {op!r} is a {type(op).__name__}: wanted a UFL expression such as a "
                "Function, its gradient, SpatialCoordinate(mesh) or a Constant."
            ) from error
        nested = neural_coefficients(op)
        if nested:
            raise NotImplementedError(
                f"the operand {op} contains the neural coefficient {nested[0].name()}: compose "
                "the two networks in one torch module instead."
            )
        checked.append(op)
    return tuple(checked)


def _mesh_of(operands: tuple[Any, ...]) -> Any:
    meshes = list(dict.fromkeys(m for op in operands for m in extract_domains(op)))
    if len(meshes) != 1:
        raise ValueError(
            f"the operands {[str(op) for op in operands]} live on {len(meshes)} meshes: all must "
            "live on one. If none of them has a mesh, give it as mesh=..."
        )
    return meshes[0].unique() if hasattr(meshes[0], "unique") else meshes[0]


def _value_shape(shape: tuple[int, ...] | None, n_outputs: int, name: str) -> tuple[int, ...]:
    if shape is None:
        return () if n_outputs == 1 else (n_outputs,)
    if int(np.prod(shape, dtype=int)) != n_outputs:
        raise ValueError(
            f"the network {name} has {n_outputs} outputs, shape={shape} wants "
            f"{int(np.prod(shape, dtype=int))}: the two must agree."
        )
    return tuple(shape)
