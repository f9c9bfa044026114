"""Sums and products of vectors of weights, which the tape records, and their squared norm."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from pyadjoint import Block
from pyadjoint.tape import annotate_tape, get_working_tape

from femnn.tape.nodes import add_dependencies
from femnn.tape.sums import EntrywiseSum

OPERATORS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class VectorArithmetic:
    """Operators, and what numpy asks of an array, for a class whose value is one vector.

    The class has ``vector`` (read-only), ``like(vector)`` (a new value of the same kind),
    ``_is_on_tape()`` and ``create_block_variable()``.  In-place operators are the plain ones:
    they give the name to a new value.
    """

    # Arrays and numpy's numbers leave arithmetic to this class.
    __array_priority__ = 100.0

    vector: Any
    like: Callable[[Any], Any]
    _is_on_tape: Callable[[], bool]

    def __len__(self) -> int:
        return len(self.vector)

    def __iter__(self) -> Iterator[float]:
        return iter(self.vector)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The vector, for numpy; read-only unless it is copied."""
        vector = self.vector
        converted = dtype is not None and np.dtype(dtype) != vector.dtype
        if copy is False and (converted or vector is not self.vector):
            raise ValueError(f"{self!r} has no vector without a copy: wanted copy=None or True.")
        return np.array(vector, dtype=dtype) if copy or converted else vector

    def __add__(self, other: Any) -> Self:
        return self._combined("+", other)

    def __sub__(self, other: Any) -> Self:
        return self._combined("-", other)

    def __mul__(self, other: Any) -> Self:
        return self._combined("*", other)

    def __truediv__(self, other: Any) -> Self:
        return self._combined("/", other)

    def __radd__(self, other: Any) -> Self:
        return self._combined("+", other, swapped=True)

    def __rsub__(self, other: Any) -> Self:
        return self._combined("-", other, swapped=True)

    def __rmul__(self, other: Any) -> Self:
        return self._combined("*", other, swapped=True)

    def __rtruediv__(self, other: Any) -> Self:
        return self._combined("/", other, swapped=True)

    def __neg__(self) -> Self:
        return self * -1.0

    def _combined(self, symbol: str, other: Any, swapped: bool = False) -> Any:
        """A new value of this and another operand, on the tape where one of them is."""
        operand = self._operand(other)
        if operand is None:
            return NotImplemented
        pair = (operand, self) if swapped else (self, operand)
        vectors = [p for p in pair if isinstance(p, VectorArithmetic)]
        x, y = (p.vector if isinstance(p, VectorArithmetic) else p for p in pair)
        result = self.like(OPERATORS[symbol](x, y))
        if annotate_tape() and any(v._is_on_tape() for v in vectors):
            block = ArithmeticBlock(symbol, pair)
            get_working_tape().add_block(block)
            block.add_output(result.create_block_variable())
        return result

    def _operand(self, other: Any) -> Any:
        """What may stand beside this in a sum or product; ``None`` for what may not."""
        if isinstance(other, numbers.Real):
            return float(other)
        if not isinstance(other, (VectorArithmetic, np.ndarray)):
            return None
        if isinstance(other, np.ndarray):
            other = other.astype(float)  # a copy, which a block may keep
        shape = (len(other),) if isinstance(other, VectorArithmetic) else other.shape
        if shape not in ((len(self),), ()):
            raise ValueError(
                f"{self!r} and an operand of shape {shape}: wanted a number, or shape "
                f"({len(self)},)."
            )
        return other


class ArithmeticBlock(Block):
    """Entry by entry, the sum, difference, product or quotient of two operands.

    Parameters
    ----------
    symbol
        One of ``+ - * /``.
    operands
        Two; ``Weights`` are dependencies, numbers and arrays are constants.
    """

    def __init__(self, symbol: str, operands: tuple[Any, Any]):
        super().__init__()
        self.symbol = symbol
        self._places = [i for i in (0, 1) if isinstance(operands[i], VectorArithmetic)]
        self._constants = [None if i in self._places else operands[i] for i in (0, 1)]
        add_dependencies(self, [operands[place] for place in self._places])

    def __str__(self) -> str:
        return f"weights {self.symbol}"

    def _operands(self, inputs: list) -> list:
        values = list(self._constants)
        for place, value in zip(self._places, inputs, strict=True):
            values[place] = value.vector
        return values

    def recompute_component(
        self, inputs: list, block_variable: Any, idx: int, prepared: Any
    ) -> Any:
        return inputs[0].like(OPERATORS[self.symbol](*self._operands(inputs)))

    def evaluate_adj_component(
        self, inputs: list, adj_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        slope = _first(self.symbol, *self._operands(inputs))[self._places[idx]]
        return inputs[idx].like(slope * adj_inputs[0].vector)

    def evaluate_tlm_component(
        self, inputs: list, tlm_inputs: list, block_variable: Any, idx: int, prepared: Any = None
    ) -> Any:
        slopes = _first(self.symbol, *self._operands(inputs))
        moving = zip(self._places, tlm_inputs, strict=True)
        changes = [slopes[place] * dot.vector for place, dot in moving if dot is not None]
        return inputs[0].like(sum(changes[1:], changes[0])) if changes else None

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
        operands, mine = self._operands(inputs), self._places[idx]
        change = _first(self.symbol, *operands)[mine] * hessian_inputs[0].vector
        bend = _second(self.symbol, *operands)[mine]
        for place, other in zip(self._places, self.get_dependencies(), strict=True):
            if other.tlm_value is not None and adj_inputs[0] is not None:
                change = change + bend[place] * other.tlm_value.vector * adj_inputs[0].vector
        return inputs[idx].like(change)


def _first(symbol: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Derivatives for the two operands, as factors of each entry."""
    if symbol in "+-":
        return 1.0, 1.0 if symbol == "+" else -1.0
    return (y, x) if symbol == "*" else (1.0 / y, -x / y**2)


def _second(symbol: str, x: Any, y: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Second derivatives for the two operands."""
    if symbol in "+-":
        return (0.0, 0.0), (0.0, 0.0)
    if symbol == "*":
        return (0.0, 1.0), (1.0, 0.0)
    mixed = -1.0 / np.square(y)
    return (0.0, mixed), (mixed, 2.0 * x / y**3)


class SquaredNormBlock(EntrywiseSum):
    """The sum of squared weights."""

    def __str__(self) -> str:
        return "squared_norm(weights)"

    def total(self, x: np.ndarray) -> float:
        return x @ x

    def slope(self, x: np.ndarray) -> np.ndarray:
        return 2.0 * x

    def bend(self, x: np.ndarray) -> np.ndarray:
        return np.full_like(x, 2.0)
