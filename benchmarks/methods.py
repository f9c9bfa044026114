"""The problem solved by femnn, by a network written out in UFL, and by hand.

Each method has ``value(w)`` and ``gradient()``: the misfit at weights ``w``, and its derivative
with respect to all weights there.
"""

import torch
from firedrake import *
from firedrake import dmhooks
from firedrake.adjoint import *
from firedrake.assemble import get_assembler

import femnn
from benchmarks.problem import DEGREE, OPTIONS, discretise, network
from benchmarks.written_out import WrittenOutNetwork


class WithFemnn:
    """As a user writes it."""

    def __init__(self, n, warm_start=True):
        get_working_tape().clear_tape()
        u, v, bc, observed = discretise(n)
        continue_annotation()
        kappa = femnn.NeuralCoefficient(network(), u, degree=DEGREE)
        F = kappa * inner(grad(u), grad(v)) * dx - 10 * v * dx
        problem = femnn.NeuralVariationalProblem(F, u, bc)
        self.solver = femnn.NeuralVariationalSolver(
            problem, solver_parameters=OPTIONS, warm_start=warm_start
        )
        self.solver.solve()
        J = femnn.assemble(0.5 * (u - observed) ** 2 * dx)
        pause_annotation()
        self.weights, self.evaluator = kappa.weights, kappa.evaluator
        self.tape = get_working_tape()
        self.Jhat = ReducedFunctional(J, Control(kappa.weights), tape=self.tape)
        set_working_tape(Tape())

    def value(self, w):
        return float(self.Jhat(self.weights.like(w)))

    def gradient(self):
        return self.Jhat.derivative().vector


class WrittenOut:
    """The network in UFL, each parameter a piecewise constant field, and pyadjoint's adjoint."""

    def __init__(self, n):
        get_working_tape().clear_tape()
        u, v, bc, observed = discretise(n)
        continue_annotation()
        self.network = WrittenOutNetwork(network(), u.function_space().mesh())
        F = self.network(u) * inner(grad(u), grad(v)) * dx(degree=DEGREE) - 10 * v * dx
        problem = NonlinearVariationalProblem(F, u, bc)
        NonlinearVariationalSolver(problem, solver_parameters=OPTIONS).solve()
        J = assemble(0.5 * (u - observed) ** 2 * dx)
        pause_annotation()
        self.Jhat = ReducedFunctional(J, self.network.controls())
        set_working_tape(Tape())

    def value(self, w):
        return float(self.Jhat(self.network.at(w)))

    def gradient(self):
        return self.network.vector(self.Jhat.derivative())


class ByHand:
    """Newton, adjoint and weight gradient written for this one problem, everything kept."""

    CHUNK = 4096

    def __init__(self, n):
        with stop_annotating():
            self._build(n)

    def _build(self, n):
        self.u, v, bc, observed = discretise(n)
        u, V = self.u, self.u.function_space()
        self.net = network()
        Q = FunctionSpace(V.mesh(), "Quadrature", DEGREE)
        self.q, self.slope, self.points = Function(Q), Function(Q), Function(Q)
        at_points = get_interpolator(interpolate(u, Q))
        self.interpolate = at_points._get_callable(tensor=self.points)
        F = self.q * inner(grad(u), grad(v)) * dx(degree=DEGREE) - 10 * v * dx
        du = TrialFunction(V)
        tangent = derivative(F, u, du) + derivative(F, self.q, self.slope * du)
        self.solver = NonlinearVariationalSolver(
            NonlinearVariationalProblem(F, u, bc, J=tangent),
            solver_parameters=OPTIONS,
            pre_function_callback=self.evaluate,
        )
        misfit = 0.5 * (u - observed) ** 2 * dx
        self.misfit = get_assembler(misfit).assemble
        self.right_side = get_assembler(derivative(misfit, u)).assemble
        self.multiplier = Function(V)
        weighted = replace(-F, {v: self.multiplier})
        self.cotangent = get_assembler(derivative(weighted, self.q)).assemble
        self.bc = bc

    def evaluate(self, X):
        self.interpolate()
        x = torch.from_numpy(self.points.dat.data_ro.reshape(-1, 1).copy())
        q, slope = self.q.dat.data_wo, self.slope.dat.data_wo
        for start in range(0, len(x), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            xi = x[part].requires_grad_(True)
            yi = self.net(xi)
            (di,) = torch.autograd.grad(yi.sum(), xi)
            q[part] = yi.detach().numpy()[:, 0]
            slope[part] = di.numpy()[:, 0]

    def value(self, w):
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.from_numpy(w), self.net.parameters())
        with stop_annotating():
            self.solver.solve()
            return self.misfit()

    def gradient(self):
        with stop_annotating():
            b = self.right_side()
            self.bc.zero(b)
            context, ksp = self.solver._ctx, self.solver.snes.getKSP()
            context._assemble_jac(context._jac)
            hooks = dmhooks.add_hooks(self.solver.snes.getDM(), self.solver, appctx=context)
            with (
                self.solver.inserted_options(),
                hooks,
                b.dat.vec_ro as rhs,
                self.multiplier.dat.vec_wo as x,
            ):
                ksp.solveTranspose(rhs, x)
            g = torch.from_numpy(self.cotangent().dat.data_ro.reshape(-1, 1).copy())
        x = torch.from_numpy(self.points.dat.data_ro.reshape(-1, 1).copy())
        parameters = list(self.net.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        for start in range(0, len(x), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            grads = torch.autograd.grad(self.net(x[part]), parameters, g[part])
            for t, gi in zip(total, grads, strict=True):
                t += gi
        return torch.cat([t.reshape(-1) for t in total]).numpy()
