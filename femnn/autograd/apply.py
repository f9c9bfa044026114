"""A torch computation as a node of the tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import firedrake as fd
import numpy as np
import torch
from pyadjoint import Block
from pyadjoint.tape import annotate_tape, get_working_tape, stop_annotating
from torch import Tensor, nn

from femnn.evaluation.derivatives import along_directions
from femnn.fields.cotangents import zero_cotangent
from femnn.parallel import sum_over_ranks
from femnn.tape.weights import Weights


def apply(net: nn.Module, *inputs: Any, into: Any) -> Any:
    """Evaluate a torch module once, as a whole, on fields; recorded on the tape.

    For what is not a law at points: an encoder of attributes, a recurrent network over a
    time series of forcing, a convolution over an image of the domain.  Laws at points are
    :class:`~femnn.NeuralCoefficient`.

    Parameters
    ----------
    net
        A module that is called as ``net(*tensors)``.
    *inputs
        Functions and Constants, which become tensors and have gradients, or tensors, which
        are data.  A Function's tensor is rank-local: the values of the degrees of freedom
        that the rank owns, shape ``(n_owned, ...)``.
    into
        What the output is: a function space (the module returns the rank-local values, in
        the shape of ``Function(into).dat.data_ro``), or a Constant, whose shape is taken
        (the module returns the same on every rank).

    Returns
    -------
    firedrake.Function or firedrake.Constant
        A new one.  The module's weights are the control ``Weights.of(net)``.

    Raises
    ------
    TypeError
        If an input is of another type.
    ValueError
        If the module returns another shape than ``into`` has.
    """
    operation = _Operation(net, inputs, into)
    with stop_annotating():
        result = operation.evaluate(None, operation.present())
    if annotate_tape():
        block = OperatorBlock(operation)
        get_working_tape().add_block(block)
        block.add_output(result.create_block_variable())
    return result


class _Operation:
    """A module with its inputs and the place of its output."""

    def __init__(self, net: nn.Module, inputs: Sequence[Any], into: Any):
        for value in inputs:
            if not isinstance(value, (fd.Function, fd.Constant, Tensor)):
                raise TypeError(
                    f"apply: an input is a {type(value).__name__}, wanted a Function, a Constant "
                    "or a tensor."
                )
        self.net, self.inputs, self.into = net, inputs, into
        self.sources = [v for v in inputs if not isinstance(v, Tensor)]
        self.replicated = isinstance(into, fd.Constant)
        self.comm = fd.COMM_SELF if self.replicated else into.mesh().comm
        self.weights = Weights.of(net, self.comm)

    def present(self) -> list[np.ndarray]:
        """The sources' values as they are now."""
        return [_values(s) for s in self.sources]

    def evaluate(self, weights: np.ndarray | None, values: list[np.ndarray]) -> Any:
        """The output at these weights and values."""
        with self.weights.loaded(weights, trainable=False), torch.no_grad():
            output = self.net(*self._tensors(values, requires_grad=False)[0])
        return self._wrap(output)

    def cotangents(
        self,
        weights: np.ndarray,
        values: list[np.ndarray],
        terms: Sequence[tuple[np.ndarray, tuple[list[Any], np.ndarray | None] | None]],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Gradients for weights and sources of sum <cotangent, output or its change>.

        Each term is a cotangent of the output, or with a direction (sources' and weights'
        changes) a cotangent of the output's change along it.
        """
        with self.weights.loaded(weights, trainable=True) as tensors, torch.enable_grad():
            arguments, places = self._tensors(values, requires_grad=True)
            output = self.net(*arguments)
            every = [*tensors, *places]
            total = [torch.zeros_like(t) for t in every]
            for cotangent, direction in terms:
                moved = output if direction is None else self._along(output, every, direction)
                if not moved.requires_grad:
                    continue
                seed = torch.as_tensor(cotangent.reshape(moved.shape)).to(moved)
                grads = torch.autograd.grad(
                    moved, every, seed, allow_unused=True, retain_graph=True
                )
                for sum_, grad in zip(total, grads, strict=True):
                    if grad is not None:
                        sum_ += grad
        n = len(tensors)
        flat = self.weights.flatten(total[:n])
        return flat, [t.detach().cpu().double().numpy() for t in total[n:]]

    def change(
        self,
        weights: np.ndarray,
        values: list[np.ndarray],
        direction: tuple[list[Any], np.ndarray | None],
    ) -> Any:
        """The output's change along a direction."""
        with self.weights.loaded(weights, trainable=True) as tensors, torch.enable_grad():
            arguments, places = self._tensors(values, requires_grad=True)
            output = self.net(*arguments)
            return self._wrap(self._along(output, [*tensors, *places], direction))

    def _along(
        self, output: Tensor, every: list[Tensor], direction: tuple[list[Any], np.ndarray | None]
    ) -> Tensor:
        sources_dot, weights_dot = direction
        n = len(every) - len(self.sources)
        pairs = [
            (place, torch.as_tensor(dot).to(place))
            for place, dot in zip(every[n:], sources_dot, strict=True)
            if dot is not None
        ]
        if weights_dot is not None:
            pairs += list(zip(every[:n], self.weights.split(weights_dot), strict=True))
        return along_directions(output, pairs)

    def _tensors(
        self, values: list[np.ndarray], requires_grad: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All arguments of the module, and those among them that are sources."""
        first = next(iter(self.net.parameters()), torch.zeros(0, dtype=torch.float64))
        remaining = iter(values)
        arguments, places = [], []
        for value in self.inputs:
            if isinstance(value, Tensor):
                arguments.append(value)
            else:
                place = torch.tensor(next(remaining)).to(first.device, first.dtype)
                places.append(place.requires_grad_(requires_grad))
                arguments.append(place)
        return arguments, places

    def _wrap(self, output: Tensor) -> Any:
        values = output.detach().cpu().double().numpy()
        result = fd.Constant(np.zeros(self.into.ufl_shape)) if self.replicated else None
        if result is None:
            result = fd.Function(self.into)
        wanted = self.into.ufl_shape if self.replicated else result.dat.data_ro.shape
        if values.shape != wanted:
            raise ValueError(
                f"apply: the module {type(self.net).__name__} returned shape {values.shape}, "
                f"wanted {wanted}, the {'Constant' if self.replicated else 'rank-local values'}'s."
            )
        if self.replicated:
            return result.assign(values)
        result.dat.data_wo[...] = values
        return result


class OperatorBlock(Block):
    """A torch module applied to fields."""

    def __init__(self, operation: _Operation, ad_block_tag: str | None = None):
        super().__init__(ad_block_tag=ad_block_tag)
        self.operation = operation
        self.add_dependency(operation.weights)
        for source in operation.sources:
            self.add_dependency(source)

    def __str__(self) -> str:
        return f"apply({type(self.operation.net).__name__})"

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        return self.operation.evaluate(inputs[0].vector, [_values(v) for v in inputs[1:]])

    def prepare_evaluate_adj(
        self, inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        return self._gradients(inputs, [(_values(adj_inputs[0]), None)])

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        return prepared[idx]

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        values = [_values(v) for v in inputs[1:]]
        return self.operation.change(inputs[0].vector, values, self._direction())

    def prepare_evaluate_hessian(
        self, inputs: list, hessian_inputs: list, adj_inputs: list, relevant_dependencies: list
    ) -> list[Any]:
        terms: list[Any] = [(_values(hessian_inputs[0]), None)]
        if adj_inputs[0] is not None:
            terms.append((_values(adj_inputs[0]), self._direction()))
        return self._gradients(inputs, terms)

    def evaluate_hessian_component(
        self,
        inputs: list,
        hessian_inputs: list,
        adj_inputs: list,
        block_variable: Any,
        idx: int,
        relevant_dependencies: list,
        prepared: Any = None,
    ) -> Any:
        return prepared[idx]

    def _direction(self) -> tuple[list[Any], np.ndarray | None]:
        dots = [bv.tlm_value for bv in self.get_dependencies()]
        weights = None if dots[0] is None else dots[0].vector
        return [None if d is None else _values(d) for d in dots[1:]], weights

    def _gradients(self, inputs: list, terms: list[Any]) -> list[Any]:
        operation = self.operation
        values = [_values(v) for v in inputs[1:]]
        local, sources = operation.cotangents(inputs[0].vector, values, terms)
        results: list[Any] = [Weights(vector=sum_over_ranks(operation.comm, local))]
        for source, gradient in zip(operation.sources, sources, strict=True):
            if isinstance(source, fd.Constant):
                results.append(sum_over_ranks(operation.comm, gradient))
            else:
                cotangent = zero_cotangent(source.function_space())
                cotangent.dat.data_wo[...] = gradient
                results.append(cotangent)
        return results


def _values(value: Any) -> np.ndarray:
    """A Function's, Cofunction's or Constant's values, or an array, as an array."""
    if isinstance(value, np.ndarray):
        return value
    values = np.array(value.dat.data_ro)
    return values.reshape(value.ufl_shape) if isinstance(value, fd.Constant) else values
