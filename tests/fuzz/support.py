"""What a script of a problem calls; printed with it, so that it stands alone."""

from contextlib import contextmanager

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from pyadjoint.tape import stop_annotating

import femnn

DIRECT = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
NEWTON = {"snes_rtol": 1e-12, "snes_atol": 1e-13, "snes_max_it": 30, "mat_type": "aij"}
STEP = 3e-3  # of first differences
BEND = 5e-2  # of second ones


class Disagreement(Exception):
    """The two sides differ."""


class Undecided(Exception):
    """The oracle has no solution."""


class Scaled(torch.nn.Module):
    """A network with a buffer and an attribute."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("scale", torch.tensor(1.5, dtype=torch.float64))
        self.shift = 0.1

    def forward(self, x):
        return self.scale * self.net(x) + self.shift


class Hidden:
    """Buffer and attribute of a network, as one value."""

    def __init__(self, net):
        self.net = net

    @property
    def numbers(self):
        return np.array([float(getattr(self.net, "scale", 1.0)), getattr(self.net, "shift", 0.0)])


def wave(space, seed):
    """A Function that is not special, the same on any number of ranks."""
    a = Constant(np.random.default_rng(seed).uniform(0.2, 1.0, 4))
    field = Function(space)
    for i, part in enumerate(field.subfunctions):
        x = SpatialCoordinate(space.mesh())
        value = a[0] * (1 + 0.3 * i) + a[1] * cos(3 * a[2] * x[0] + 2 * a[3] * x[len(x) - 1])
        n = part.ufl_shape
        part.interpolate(as_vector([value * (1 - 0.4 * j) for j in range(n[0])]) if n else value)
    return field


def values(o):
    """The numbers of a Function, a Constant, weights or hidden values; of this rank."""
    if isinstance(o, femnn.Weights):
        return np.array(o.vector)
    if isinstance(o, Hidden):
        return o.numbers
    if isinstance(o, Constant):
        return np.array(o.dat.data_ro, dtype=float)
    with o.dat.vec_ro as vector:
        return vector.array_r.copy()


def put(o, numbers):
    """Set them, without recording."""
    with stop_annotating():
        if isinstance(o, femnn.Weights):
            o.assign(numbers)
        elif isinstance(o, Hidden):
            if isinstance(o.net, Scaled):
                o.net.scale.fill_(numbers[0])
                o.net.shift = float(numbers[1])
        elif isinstance(o, Constant):
            o.assign(numbers if o.ufl_shape else float(np.ravel(numbers)[0]))
        else:
            write(o, numbers)


def like(o, numbers):
    """A new value of the same kind with other numbers."""
    if isinstance(o, femnn.Weights):
        return o.like(numbers)
    if isinstance(o, Constant):
        return Constant(np.reshape(numbers, o.ufl_shape))
    new = Function(o.function_space())
    put(new, numbers)
    return new


def present(law):
    """A coefficient at what its operands hold now; the oracle's Function as it is."""
    return law.update() if isinstance(law, femnn.NeuralCoefficient) else law


def write(field, numbers):
    """Change a field in place, as who reads data in each step does; nothing is recorded."""
    with field.dat.vec_wo as vector:
        vector.array[:] = numbers


def way(o, seed):
    """A direction."""
    if isinstance(o, femnn.Weights):
        return np.random.default_rng(seed).standard_normal(len(o))
    if isinstance(o, Constant):
        return np.random.default_rng(seed).uniform(0.5, 1.0, o.ufl_shape)
    return values(wave(o.function_space(), seed))


def written(net, weights, hidden, operands):
    """The network's outputs in UFL."""
    x = [c for o in operands for c in (flat(o) if o.ufl_shape else [o])]
    inner_net = net.net if isinstance(net, Scaled) else net
    w = [weights[i] for i in range(weights.ufl_shape[0])]
    out = [hidden[0] * y + hidden[1] for y in femnn.to_ufl(inner_net, *x, weights=w)]
    return out[0] if len(out) == 1 else as_vector(out)


def flat(o):
    return [o[i] for i in np.ndindex(o.ufl_shape)]


def compare(what, found, wanted, relative, absolute):
    """Raise an error where two numbers differ."""
    if not abs(found - wanted) <= relative * abs(wanted) + absolute:
        raise Disagreement(f"{what}: femnn {found!r}, oracle {float(wanted)!r}")


class Case:
    """Both sides, and what has been recorded.

    ``pairs`` names what has a value on both sides; ``run(other)`` is the oracle's functional.
    """

    def __init__(self, pairs, controls, record, oracle, seed):
        self.pairs, self.names, self.seed = pairs, controls, seed
        self._record, self._oracle, self._differences = record, oracle, {}
        self.controls = [pairs[name][0] for name in controls]
        self.ways = [way(o, seed + i) for i, o in enumerate(self.controls)]

    def record(self):
        """Record anew, at what femnn's side holds now; the oracle takes the same values."""
        get_working_tape().clear_tape()
        for name in ("start", "g", "b"):  # blocks of Firedrake's own would take what the last
            self.pairs[name][0].create_block_variable()  # tape held in the nodes
        self.follow()
        wanted = self.value()
        continue_annotation()
        try:
            J = self._record()
        finally:
            pause_annotation()
        self.here = self.point = [values(o) for o in self.controls]
        self.J = J
        self.check_value("value when recorded", float(J), wanted)
        self.Jhat = ReducedFunctional(J, [Control(o) for o in self.controls])

    def follow(self):
        """Let the oracle hold what femnn's side holds."""
        for mine, other in self.pairs.values():
            put(other, values(mine))

    @contextmanager
    def present(self):
        """The oracle at what femnn's side holds now, for a while."""
        before = [values(other) for _, other in self.pairs.values()]
        self.follow()
        yield
        for (_, other), old in zip(self.pairs.values(), before, strict=True):
            put(other, old)

    def value(self, point=None):
        """The oracle's."""
        if point is not None:
            self.hold(point)
        with stop_annotating():
            try:
                return float(self._oracle())
            except ConvergenceError as error:
                raise Undecided(str(error)) from error

    def hold(self, point):
        """Let the oracle's controls be these."""
        for name, numbers in zip(self.names, point, strict=True):
            put(self.pairs[name][1], numbers)

    def here_again(self):
        """Evaluate where it was recorded."""
        self.evaluate(self.here)

    def away(self, factor):
        """Evaluate elsewhere."""
        self.evaluate([h + factor * d for h, d in zip(self.here, self.ways, strict=True)])

    def evaluate(self, point):
        """Evaluate at a point, and compare."""
        self.point = point
        wanted = self.value(point)
        found = self.Jhat([like(o, p) for o, p in zip(self.controls, point, strict=True)])
        self.check_value("value at a point", float(found), wanted)

    def check_value(self, what, found, wanted):
        self.size = max(abs(wanted), 1e-2)
        compare(what, found, wanted, 1e-8, 1e-10)

    def derivative(self):
        """The derivative in the direction, where it was evaluated last."""
        gradients = self.Jhat.derivative()
        ways = [like(o, d) for o, d in zip(self.controls, self.ways, strict=True)]
        parts = [float(d._ad_dot(g)) for d, g in zip(ways, gradients, strict=True)]
        self.check_slope(f"derivative {self.names}", sum(parts))

    def tangent(self):
        """The tangent-linear model's."""
        found = self.Jhat.tlm([like(o, d) for o, d in zip(self.controls, self.ways, strict=True)])
        self.check_slope(f"tangent {self.names}", float(found))

    def hessian(self):
        """The second derivative along the direction, against the oracle's second difference."""
        self.Jhat.derivative()
        ways = [like(o, d) for o, d in zip(self.controls, self.ways, strict=True)]
        products = self.Jhat.hessian(ways)
        found = sum(float(d._ad_dot(g)) for d, g in zip(ways, products, strict=True))
        wide, narrow = (self.second_difference(factor * BEND) for factor in (1, 0.5))
        wanted = (4 * narrow - wide) / 3
        compare(f"hessian {self.names}", found, wanted, 2e-3, 1e-4 * self.size)

    def second_difference(self, step):
        """The oracle's."""
        ends = [
            [p + sign * step * d for p, d in zip(self.point, self.ways, strict=True)]
            for sign in (1, 0, -1)
        ]
        above, here, below = map(self.value, ends)
        self.hold(self.point)
        return (above - 2 * here + below) / step**2

    def check_slope(self, what, found):
        """Compare with central differences of the oracle, extrapolated where these do not do."""
        absolute = 2e-8 * self.size
        narrow = self.difference(STEP / 2)
        if not abs(found - narrow) <= 1e-5 * abs(narrow) + absolute:
            narrow = (4 * narrow - self.difference(STEP)) / 3
        compare(what, found, narrow, 1e-5, absolute)

    def difference(self, step):
        """The oracle's central difference, computed once for the same values."""
        kept = (o for name, (_, o) in self.pairs.items() if name not in ("u", "un"))
        held = map(bytes, map(values, kept))
        key = (step, *(np.asarray(p).tobytes() for p in self.point), *held)
        missing = key not in self._differences
        if self.pairs["f"][0].comm.allreduce(missing):  # the same on all ranks
            ends = [
                [p + sign * step * d for p, d in zip(self.point, self.ways, strict=True)]
                for sign in (1, -1)
            ]
            above, below = map(self.value, ends)
            self.hold(self.point)
            self._differences[key] = (above - below) / (2 * step)
        return self._differences[key]
