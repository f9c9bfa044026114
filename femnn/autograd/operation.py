"""A torch module between fields: its value, its changes and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import firedrake as fd
import numpy as np
import torch
import ufl
from mpi4py import MPI
from pyadjoint import AdjFloat
from torch import Tensor, nn
from torch.func import jvp, vmap
from ufl.duals import is_dual

from femnn.autograd.values import (
    array_of,
    check_one_block,
    field_on,
    is_shared,
    like,
    numpy_of,
    shape_of,
)
from femnn.evaluation.derivatives import along_directions
from femnn.evaluation.parameters import ParameterVector
from femnn.fields.copies import is_real
from femnn.parallel import any_rank, raise_network_error, same_on_ranks, sum_over_ranks
from femnn.tape.model import largest_comm
from femnn.tape.vector import Vector
from femnn.tape.weights import Weights

ARRAYS = (fd.Constant, Vector)

# The sources' changes and the weights', ``None`` for what does not change.
Motion: TypeAlias = tuple[list[np.ndarray | None], np.ndarray | None]


class Operation:
    """A module with its inputs and the place of its output.

    Parameters
    ----------
    net, inputs, into
        As for :func:`femnn.apply`.

    Attributes
    ----------
    net : torch.nn.Module
        The module.
    sources : list of Function, Constant, Vector or AdjFloat
        The inputs that have gradients.
    weights : Weights
        The module's weights.
    comm : mpi4py.MPI.Comm
        The ranks that compute together; only this one where there is no field.
    """

    def __init__(self, net: nn.Module, inputs: Sequence[Any], into: Any):
        self.net, self.inputs, self.into = net, inputs, into
        self._check_kinds()
        self.sources = [v for v in inputs if not isinstance(v, Tensor)]
        self.is_sum = into is float and not all(map(is_shared, self.sources))
        self.is_shared = not self.is_sum and (not is_space(into) or is_real(into))
        self.comm: MPI.Comm = self._comm()
        self._shape = _shape_of(into)
        self.weights = Weights.of(net, self.comm)

    def present(self) -> list[np.ndarray]:
        """The sources' values as they are now."""
        return [array_of(s) for s in self.sources]

    def evaluate(self, weights: np.ndarray | None, values: list[np.ndarray]) -> Any:
        """The output at these weights and values.  Collective."""
        with self._agreed(), self.weights.loaded(weights, trainable=False), torch.no_grad():
            before = self._hidden_state()
            output = self._call(self._tensors(values, requires_grad=False)[0])
            self._check_hidden_state(before)
        array = numpy_of(output)
        if self.is_shared and not same_on_ranks(self.comm, array.tobytes()):
            raise RuntimeError(
                f"apply: the module {type(self.net).__name__} returned values that differ between "
                "ranks, wanted the same on all: of a Function it sees the values that the rank "
                "owns. Give it numbers that are the same everywhere (femnn.assemble makes a "
                "field's integrals), or sum over the ranks inside."
            )
        return self._wrap(self._whole(array))

    def cotangents(
        self,
        weights: np.ndarray,
        values: list[np.ndarray],
        terms: Sequence[tuple[np.ndarray, Motion | None]],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Gradients for weights and sources of sum <cotangent, output or its change>.  Collective.

        Each term is a cotangent of the output, or with a motion a cotangent of the output's
        change along it.  The gradients of what is the same on every rank are complete.
        """
        with self._graph(weights, values) as (output, places):
            total = [torch.zeros_like(p) for p in places]
            for cotangent, motion in terms:
                moved = output if motion is None else self._along(output, places, motion)
                _add_products(total, cotangent, moved, places)
            n = len(places) - len(self.sources)
            flat, rest = ParameterVector.flatten(total[:n]), [numpy_of(t) for t in total[n:]]
        pairs = zip(self.sources, rest, strict=True)
        return self._summed(flat), [self._summed(g) if is_shared(s) else g for s, g in pairs]

    def change(self, weights: np.ndarray, values: list[np.ndarray], motion: Motion) -> Any:
        """The output's change along a motion.  Collective."""
        with self._graph(weights, values) as (output, places):
            array = numpy_of(self._along(output, places, motion))
        return self._wrap(self._whole(array))

    def change_columns(
        self, weights: np.ndarray, values: list[np.ndarray], columns: list[np.ndarray | None]
    ) -> np.ndarray | None:
        """The output's changes along many changes of the sources.  Collective.

        Parameters
        ----------
        weights, values
            As for :meth:`change`.
        columns
            For each source the rank's rows of its changes, shape ``(n_numbers, n)``.

        Returns
        -------
        numpy.ndarray or None
            Shape ``(n_numbers, n)``; ``None`` where torch cannot take the module so.
        """
        moving = {i: matrix for i, matrix in enumerate(columns) if matrix is not None}
        with self._agreed(), self.weights.loaded(weights, trainable=False):
            arguments, places = self._tensors(values, requires_grad=False)
            dots = [
                torch.as_tensor(matrix.T.reshape(-1, *places[i].shape)).to(places[i])
                for i, matrix in moving.items()
            ]
            changed = _all_along(self._call, arguments, places, list(moving), dots)
        if any_rank(self.comm, changed is None) or changed is None:
            return None
        rows = numpy_of(changed).reshape(len(changed), -1).T
        return self._whole(np.ascontiguousarray(rows))

    def _whole(self, array: np.ndarray) -> np.ndarray:
        """The output, of which the rank's module may have made a part."""
        return sum_over_ranks(self.comm, array) if self.is_sum else array

    def _summed(self, local: np.ndarray) -> np.ndarray:
        """The gradient of what all ranks share, where each has found its own output's part."""
        return local if self.is_shared else sum_over_ranks(self.comm, local)

    @contextmanager
    def _agreed(self) -> Iterator[None]:
        """Raise on all ranks what the block raises on one; nothing inside is collective."""
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        raise_network_error(self.comm, failure)

    @contextmanager
    def _graph(
        self, weights: np.ndarray, values: list[np.ndarray]
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The output, and the weights' and the sources' tensors that it was computed from."""
        with (
            self._agreed(),
            self.weights.loaded(weights, trainable=True) as tensors,
            torch.enable_grad(),
        ):
            arguments, places = self._tensors(values, requires_grad=True)
            yield self._call(arguments), [*tensors, *places]

    def _along(self, output: Tensor, places: list[Tensor], motion: Motion) -> Tensor:
        sources_dot, weights_dot = motion
        n = len(places) - len(self.sources)
        pairs = [
            (place, torch.as_tensor(dot).to(place))
            for place, dot in zip(places[n:], sources_dot, strict=True)
            if dot is not None
        ]
        if weights_dot is not None:
            pairs += list(zip(places[:n], self.weights.split(weights_dot), strict=True))
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

    def _call(self, arguments: list[Tensor]) -> Tensor:
        output, name = self.net(*arguments), type(self.net).__name__
        if not isinstance(output, Tensor):
            raise TypeError(
                f"apply: the module {name} returned a {type(output).__name__}, wanted one tensor."
            )
        if output.shape != self._shape:
            kind = "rank-local values'" if is_space(self.into) else f"{type(self.into).__name__}'s"
            whose = "a number's" if self.into is float else f"the {kind}"
            raise ValueError(
                f"apply: the module {name} returned shape {tuple(output.shape)}, wanted "
                f"{self._shape}, {whose}."
            )
        return output

    def _hidden_state(self) -> list[Any]:
        """What a module must leave as it is: the generators of random numbers, its buffers."""
        generators = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            generators += torch.cuda.get_rng_state_all()
        return [g.numpy().tobytes() for g in generators] + [b._version for b in self.net.buffers()]

    def _check_hidden_state(self, before: list[Any]) -> None:
        if self._hidden_state() != before:
            raise ValueError(
                f"apply: the module {type(self.net).__name__} draws random numbers or changes its "
                "buffers when it is called, as dropout and batch normalisation in training mode "
                "do, so its value changes from call to call: call net.eval(), and give it what is "
                "drawn as an input."
            )

    def _wrap(self, array: np.ndarray) -> Any:
        if self.into is float:
            return AdjFloat(array)
        return field_on(self.into, array) if is_space(self.into) else like(self.into, array)

    def _comm(self) -> MPI.Comm:
        if is_space(self.into):
            return self.into.mesh().comm
        return largest_comm([*self.sources, self.into]) or MPI.COMM_SELF

    def _check_kinds(self) -> None:
        for value in self.inputs:
            if not isinstance(value, (fd.Function, *ARRAYS, AdjFloat, Tensor)):
                raise TypeError(
                    f"apply: an input is a {type(value).__name__}, wanted a Function, a Constant, "
                    "values at stations, a recorded number (AdjFloat, as femnn.assemble makes) or "
                    "a tensor."
                )
            if isinstance(value, fd.Function):
                check_one_block(value.function_space(), "apply", f"input {value.name()}")
        if isinstance(self.into, ARRAYS) or self.into is float:
            return
        if not is_space(self.into):
            raise TypeError(
                f"apply: into is a {type(self.into).__name__}, wanted a function space, a Constant "
                "or the type float, as in into=V, into=Constant(0.0) or into=float."
            )
        check_one_block(self.into, "apply", "output")


def _all_along(
    call: Callable[[list[Tensor]], Tensor],
    arguments: list[Tensor],
    places: list[Tensor],
    moving: list[int],
    dots: list[Tensor],
) -> Tensor | None:
    """The output's changes, the directions first."""
    where = {id(places[i]): k for k, i in enumerate(moving)}

    def output(*moved: Tensor) -> Tensor:
        return call([moved[where[id(a)]] if id(a) in where else a for a in arguments])

    def along(*changes: Tensor) -> Tensor:
        return jvp(output, tuple(places[i] for i in moving), changes)[1]

    try:
        return vmap(along)(*dots)
    except (RuntimeError, NotImplementedError):  # control flow that depends on values, say
        return None


def is_space(into: Any) -> bool:
    """Whether the output is a field, and not a Constant or a number."""
    return isinstance(into, ufl.FunctionSpace) and not is_dual(into)


def _shape_of(into: Any) -> tuple[int, ...]:
    """The shape that the module's output must have on this rank."""
    if into is float:
        return ()
    return shape_of(fd.Function(into) if is_space(into) else into)


def _add_products(
    total: list[Tensor], cotangent: np.ndarray, output: Tensor, places: list[Tensor]
) -> None:
    """Add the products of a cotangent with the Jacobians of the output in all places."""
    if not output.requires_grad:
        return
    seed = torch.as_tensor(cotangent.reshape(output.shape)).to(output)
    grads = torch.autograd.grad(output, places, seed, allow_unused=True, retain_graph=True)
    for sum_, grad in zip(total, grads, strict=True):
        if grad is not None:
            sum_ += grad
