"""A vector of numbers on the tape that all ranks hold: what a model gives at stations."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from pyadjoint import AdjFloat, Block
from pyadjoint.tape import annotate_tape, get_working_tape

from femnn.tape.arithmetic import VectorArithmetic
from femnn.tape.control import VectorControl
from femnn.tape.sums import EntrywiseSum


class Vector(VectorArithmetic, VectorControl):
    """Numbers that are the same on every rank, in an order that does not depend on ranks.

    Sums, differences, products and quotients (entry by entry, with another vector, a number or an
    array) are new vectors, recorded where annotation is on.  Numpy takes it for its array.

    Parameters
    ----------
    values
        The numbers, of any shape; the same on every rank.
    comm
        The ranks that hold them.
    name
        Name in the tape's graph.

    Attributes
    ----------
    shape : tuple of int
        The array's shape.
    """

    def __init__(self, values: Any, comm: MPI.Comm = MPI.COMM_SELF, name: str = "values"):
        super().__init__()
        array = np.array(values, dtype=float)
        self.shape, self.comm, self.name = array.shape, comm, name
        self._vector = _read_only(array.ravel())

    @property
    def vector(self) -> np.ndarray:
        """The numbers in one row, shape ``(n,)``, read-only."""
        return self._vector

    @property
    def array(self) -> np.ndarray:
        """The numbers in :attr:`shape`, read-only."""
        return self._vector.reshape(self.shape)

    def like(self, vector: Any) -> Vector:
        """Another vector of this one's shape.

        Parameters
        ----------
        vector
            As many numbers, of any shape; they are copied.
        """
        array = np.asarray(vector, dtype=float)
        if array.size != len(self):
            raise ValueError(
                f"{self!r}.like() got {array.size} numbers of shape {array.shape}: wanted "
                f"{len(self)}."
            )
        return type(self)(array.reshape(self.shape), self.comm, self.name)

    def assign(self, vector: Any) -> Vector:
        """Take other numbers; what is on the tape keeps its own."""
        self._vector = self.like(getattr(vector, "vector", vector))._vector
        if annotate_tape():
            self.create_block_variable()
        return self

    def sum(self) -> AdjFloat:
        """The sum of the numbers; recorded on the tape."""
        return recorded(TotalBlock(self)) if annotate_tape() else AdjFloat(self.vector.sum())

    def __len__(self) -> int:
        return len(self._vector)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The numbers in their shape, for numpy; read-only unless they are copied."""
        return super().__array__(dtype, copy).reshape(self.shape)

    def __repr__(self) -> str:
        return f"Vector({self.name}, {len(self)} values)"

    def __str__(self) -> str:
        return str(self.array)

    def _operand(self, other: Any) -> Any:
        if isinstance(other, np.ndarray) and other.shape == self.shape:
            other = other.ravel()
        return super()._operand(other)

    def _is_on_tape(self) -> bool:
        return self._block_variable() is not None

    # A checkpoint shares the array, which is never written to.

    @classmethod
    def _ad_init_object(cls, obj: Vector) -> Vector:
        return obj._same()

    def _ad_create_checkpoint(self) -> Vector:
        return self._same()

    def _ad_restore_at_checkpoint(self, checkpoint: Vector) -> Vector:
        return checkpoint._same()

    def _same(self) -> Vector:
        copy = type(self)(np.empty(0), self.comm, self.name)
        copy.shape, copy._vector = self.shape, self._vector
        return copy


def recorded(block: Block) -> Any:
    """The value of a block with one output, which goes on the tape."""
    inputs = [bv.saved_output for bv in block.get_dependencies()]
    prepared = block.prepare_recompute_component(inputs, [])
    value = block.recompute_component(inputs, None, 0, prepared)
    get_working_tape().add_block(block)
    block.add_output(value.create_block_variable())
    return value


class TotalBlock(EntrywiseSum):
    """The sum of a vector's numbers."""

    def __str__(self) -> str:
        return "sum"

    def total(self, x: np.ndarray) -> float:
        return x.sum()

    def slope(self, x: np.ndarray) -> np.ndarray:
        return np.ones_like(x)

    def bend(self, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x)


def _read_only(vector: np.ndarray) -> np.ndarray:
    vector.flags.writeable = False
    return vector
