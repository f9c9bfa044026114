"""What the tests of observations share."""

import contextlib
import io

import numpy as np
from firedrake import *
from firedrake.adjoint import *

from femnn.fields.interpolation import Interpolated
from femnn.tape.interpolation import interpolated

POINTS = np.array([[0.31, 0.22], [0.55, 0.61], [0.05, 0.97], [1.0, 0.0], [0.72, 0.43], [0.5, 0.5]])


def both_comms():
    """All ranks together, and this one alone."""
    return [COMM_WORLD] if COMM_WORLD.size == 1 else [COMM_WORLD, COMM_SELF]


def wave(V, a=3.0, b=5.0):
    """A field that does not depend on the number of ranks."""
    x = SpatialCoordinate(V.mesh())
    components = [cos(a * x[0] + b * x[1] + i) for i in range(max(1, V.value_size))]
    field = components[0] if V.value_shape == () else as_vector(components)
    with stop_annotating():
        return Function(V).interpolate(field)


def follow(expression, V):
    """An expression in a space, with second derivatives."""
    return interpolated(Interpolated(expression, V), V)


def check_derivatives(J, values, directions):
    """Gradient, Hessian action and tangent-linear model; the gradient's products with each."""
    Jhat = ReducedFunctional(J, [Control(v) for v in values])
    with contextlib.redirect_stdout(io.StringIO()):
        rates = taylor_to_dict(Jhat, values, directions)
    assert rates["R1"]["Rate"][-1] > 1.95, rates["R1"]
    assert rates["R2"]["Rate"][-1] > 2.9, rates["R2"]
    Jhat(values)
    gradient = Jhat.derivative()
    products = [float(d._ad_dot(g)) for d, g in zip(directions, gradient, strict=True)]
    np.testing.assert_allclose(float(Jhat.tlm(directions)), sum(products), rtol=1e-10)
    return products
