"""The tape's block of a coefficient's evaluation."""

from __future__ import annotations

from typing import Any

import firedrake as fd
import numpy as np

from femnn.points.block import PointwiseBlock


class EvaluationBlock(PointwiseBlock):
    """A neural coefficient's values."""

    def __init__(self, coefficient: Any, ad_block_tag: str | None = None):
        super().__init__(coefficient.map, coefficient.weights, ad_block_tag)
        self.coefficient = coefficient

    def __str__(self) -> str:
        return f"evaluate({self.coefficient.name()})"

    def _output(self, rows: np.ndarray, idx: int) -> fd.Function:
        values = fd.Function(self.coefficient.function_space())
        self.map.at.fill(values, rows)
        return values

    def _cotangent(self, incoming: list) -> np.ndarray:
        if incoming[0] is None:
            return np.zeros((len(self.map.points.inputs), self.map.evaluator.n_outputs))
        return self.map.at.rows(incoming[0])
