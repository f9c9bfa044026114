"""Second derivatives of a loss: products at its last point, in an optimiser's coordinates."""

from __future__ import annotations

import numpy as np

from femnn.parallel import vector_from_rank_zero
from femnn.tape.columns import gauss_newton_matrix
from femnn.tape.counts import count
from femnn.tape.curvature import gauss_newton_product
from femnn.training.coordinates import Coordinates
from femnn.training.loss import Loss

# Numbers for which a matrix is made; beyond, products with it are less work.  Data tell of few
# directions of a field that has a prior, which conjugate gradients find.
LARGEST, LARGEST_WITH_FIELDS = 1000, 200


class Curvature:
    """Products with the Gauss-Newton matrix or the Hessian of a loss where it was evaluated last.

    Parameters
    ----------
    loss
        The loss, which has been started.
    coordinates
        Of the vectors.

    Attributes
    ----------
    exact : bool
        Whether products are with the whole Hessian.
    has_matrix : bool
        Whether there are few enough numbers for a matrix.
    """

    def __init__(self, loss: Loss, coordinates: Coordinates):
        self._loss, self._coordinates = loss, coordinates
        self.exact = False
        controls = loss.controls
        self._euclids, with_priors = controls.metric.is_euclids, controls.length > 0
        most = LARGEST if self._euclids else LARGEST_WITH_FIELDS
        self.has_matrix = len(controls) <= most and (self._euclids or with_priors)

    def __call__(self, direction: np.ndarray) -> np.ndarray:
        """The product with a direction, shape ``(n,)``.  Collective."""
        loss, controls = self._loss, self._loss.controls
        loss.return_to_last(derivative=self.exact)
        Jhat, change = loss.Jhat, controls.values(self._coordinates.direction(direction))
        if self.exact:
            count("tangent")
            count("hessian")
            product = Jhat.hessian(change)
        else:
            changes = change if isinstance(change, list) else [change]
            product = gauss_newton_product(Jhat.functional, Jhat.controls, changes, Jhat.tape)
        flat = vector_from_rank_zero(controls.comm, controls.flat(product))
        return self._coordinates.gradient(flat)

    def matrix(self) -> np.ndarray | None:
        """The Gauss-Newton matrix, shape ``(n, n)``, where it is cheap to have.  Collective."""
        if not self.has_matrix:
            return None
        loss = self._loss
        loss.return_to_last(derivative=False)
        Jhat, directions = loss.Jhat, None
        if not self._euclids:
            every = np.eye(len(loss.controls))
            directions = loss.controls.rows(self._coordinates.direction(every))
        matrix = gauss_newton_matrix(Jhat.functional, Jhat.controls, Jhat.tape, directions)
        self.has_matrix = matrix is not None
        if matrix is None:
            return None
        return vector_from_rank_zero(loss.controls.comm, matrix)
