"""The Gauss-Newton matrix by rows of data, for few data and many numbers to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from femnn.parallel import vector_from_rank_zero
from femnn.tape.columns import factors_of
from femnn.tape.rows import residual_rows
from femnn.tape.sums import EntrywiseSum
from femnn.training.coordinates import Coordinates
from femnn.training.loss import Loss
from femnn.training.steihaug import Subspace

# A row is an adjoint run.  Conjugate gradients take two runs a product, about as many products in
# all as these many data; columns are carried together, so that a row must save this many.
MOST, MOST_WITH_FIELDS, COLUMNS_A_ROW = 16, 30, 16
LARGEST = 1000  # directions of the subspace


@dataclass(frozen=True)
class Split:
    """A functional's second derivatives by where they come from.

    Attributes
    ----------
    data : dict of EntrywiseSum and float
        Misfits, with the functional's derivative for each.
    diagonal : numpy.ndarray
        What all else adds, in the optimiser's coordinates, shape ``(n,)``.
    """

    data: dict[EntrywiseSum, float]
    diagonal: np.ndarray

    @property
    def rows(self) -> int:
        """How many data have a weight."""
        return sum(int(np.count_nonzero(f * b.curvature())) for b, f in self.data.items())


class DataSpace:
    """Steps from rows of data, where these are fewer than numbers to find.

    Parameters
    ----------
    loss
        The loss, which has been started.
    coordinates
        Of the vectors.
    """

    def __init__(self, loss: Loss, coordinates: Coordinates):
        self._loss, self._coordinates = loss, coordinates

    def steps(self, gradient: np.ndarray, free: np.ndarray, columns: bool) -> Subspace | None:
        """The minima of the quadratic model where the loss was evaluated last.  Collective.

        Parameters
        ----------
        gradient
            Zero where a bound holds back, shape ``(n,)``.
        free
            Where none does, shape ``(n,)``.
        columns
            Whether all directions could be carried together instead.

        Returns
        -------
        Subspace or None
            ``None`` where the functional is not a sum of misfits and diagonal terms, or where other
            ways are less work.
        """
        loss, Jhat = self._loss, self._loss.Jhat
        if Jhat.tape._checkpoint_manager is not None:
            return None
        loss.return_to_last(derivative=False)
        split = self._split()
        if split is None or not self._pays(split, columns):
            return None
        flat = loss.controls.flat
        rows = residual_rows(Jhat.functional, Jhat.controls, Jhat.tape, split.data, flat)
        rows = vector_from_rank_zero(loss.controls.comm, rows)
        return Subspace(self._coordinates.gradient(rows.T).T * free, split.diagonal, gradient)

    def _pays(self, split: Split, columns: bool) -> bool:
        controls, rows = self._loss.controls, split.rows
        most = MOST if controls.are_weights else MOST_WITH_FIELDS
        if columns:
            most = len(controls) // COLUMNS_A_ROW
        directions = np.unique(split.diagonal).size * (rows + 1)
        return 0 < rows <= min(most, len(controls) - 1) and directions <= LARGEST

    def _split(self) -> Split | None:
        Jhat, controls = self._loss.Jhat, self._loss.controls
        factors = factors_of(Jhat.functional, Jhat.controls, Jhat.tape)
        if factors is None or min(factors.values(), default=0.0) < 0:
            return None
        nodes = [control.block_variable for control in Jhat.controls]
        places = dict(zip(nodes, controls.places, strict=True))
        data: dict[EntrywiseSum, float] = {}
        numbers, in_coordinates = np.zeros((2, len(controls)))
        for block, factor in factors.items():
            place = places.get(block.get_dependencies()[0])
            if place is not None and controls.is_measured_by(block):
                in_coordinates[place] += factor
            elif not isinstance(block, EntrywiseSum):
                return None
            elif place is not None:
                numbers[place] += factor * block.curvature()
            else:
                data[block] = factor
        scaled = self._coordinates.gradient(self._coordinates.gradient(numbers))
        return Split(data, scaled + in_coordinates)
