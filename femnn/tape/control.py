"""What pyadjoint asks of a control whose value is one vector, the same on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI
from pyadjoint.overloaded_type import OverloadedType

from femnn.tape import taosolver as taosolver  # users of such controls can use TAOSolver
from femnn.tape.petsc import OnRankZero


class VectorControl(OverloadedType):
    """The part of pyadjoint's protocol that follows from a vector.

    The class has ``vector`` (read-only), ``like(vector)`` (a new value of the same kind),
    ``assign(vector)``, ``name`` and ``comm``.
    """

    vector: Any
    like: Callable[[Any], Any]
    assign: Callable[[Any], Any]
    name: str
    comm: MPI.Comm

    @property
    def has_changed(self) -> bool:
        """Whether the value has changed since the tape took it, without being recorded."""
        return False

    def _ad_init_zero(self, dual: bool = False) -> Any:
        return self.like(np.zeros(len(self.vector)))

    def _ad_copy(self) -> Any:
        return self.like(self.vector)

    def _ad_mul(self, other: float) -> Any:
        return self.like(self.vector * float(other))

    def _ad_add(self, other: Any) -> Any:
        return self.like(self.vector + other.vector)

    def _ad_iadd(self, other: Any) -> None:
        self.assign(self.vector + other.vector)

    def _ad_imul(self, other: float) -> None:
        self.assign(self.vector * float(other))

    def _ad_dot(self, other: Any, options: dict | None = None) -> float:
        return float(self.vector @ other.vector)

    def _ad_dim(self) -> int:
        return len(self.vector)

    def _ad_convert_riesz(self, value: Any, riesz_map: Any = None) -> Any:
        return self.like(value.vector)

    def _ad_to_petsc(self, vec: Any = None) -> Any:
        """All entries on rank 0: a PETSc vector has each entry once."""
        entries = OnRankZero(self.comm, len(self.vector))
        if vec is None:
            return entries.new(self.vector)
        entries.write(vec, self.vector)
        return vec

    def _ad_from_petsc(self, vec: Any) -> None:
        self.assign(OnRankZero(self.comm, len(self.vector)).read(vec))

    @staticmethod
    def _ad_assign_numpy(dst: Any, src: np.ndarray, offset: int) -> tuple[Any, int]:
        end = offset + len(dst.vector)
        return dst.like(src[offset:end]), end

    @staticmethod
    def _ad_to_list(m: Any) -> list[float]:
        return m.vector.tolist()

    @property
    def _ad_str(self) -> str:
        return self.name
