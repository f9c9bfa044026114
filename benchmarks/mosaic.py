"""The thermal problem of the public benchmark Mosaic (arXiv 2606.27895), written in three ways.

Steady heat conduction on nx x nx/2 x 1 hexahedra, with a conductivity
k_min + (k_max - k_min) rho^3 and one rho per cell: what a density-based topology optimisation
solves in each of its steps.  A side is cold, heat flows in through the side opposite, and the
objective is the thermal compliance, this flux times the temperature.  There is no network here:
what is measured is a forward solve plus one vector-Jacobian product for all rho.
"""

import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from firedrake.assemble import get_assembler

import femnn
from benchmarks.problem import clock

OPTIONS = {
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
}
K_MAX = 1.0
K_MIN = 1e-3 * K_MAX
COLD, HOT = 1, 2  # x = 0, and x = 2


def conductivity(rho):
    return K_MIN + (K_MAX - K_MIN) * rho**3


class Problem:
    """Temperature, density, boundary condition and forms, the same for all."""

    def __init__(self, nx):
        base = RectangleMesh(nx, nx // 2, 2, 1, quadrilateral=True)
        mesh = ExtrudedMesh(base, 1, layer_height=2 / nx)
        V = FunctionSpace(mesh, "Q", 1)
        self.rho = Function(FunctionSpace(mesh, "DQ", 0), name="rho").assign(0.5)
        self.temperature = Function(V, name="temperature")
        self.bc = DirichletBC(V, 0, COLD)
        self.flux = Constant(1.0, name="flux")

    def heat(self, temperature, test):
        """Conduction, a bilinear form."""
        return conductivity(self.rho) * inner(grad(temperature), grad(test)) * dx

    def compliance(self, temperature):
        """Flux times temperature; also the flux as a source, for a test function."""
        return self.flux * temperature * ds_v(HOT)


class WithFemnn:
    """As a user writes it, ``backward()`` included: rho and its gradient are torch tensors."""

    def __init__(self, nx):
        with recording() as tape:
            p = Problem(nx)
            v = TestFunction(p.temperature.function_space())
            problem = femnn.NeuralVariationalProblem(
                p.heat(p.temperature, v) - p.compliance(v), p.temperature, p.bc, is_linear=True
            )
            solver = femnn.NeuralVariationalSolver(
                problem, solver_parameters={"snes_type": "ksponly", **OPTIONS}
            )
            solver.solve()
            J = femnn.assemble(p.compliance(p.temperature))
            self.layer = femnn.PDELayer(ReducedFunctional(J, Control(p.rho), tape=tape))

    def value(self, rho):
        return float(self.layer(torch.from_numpy(rho)))

    def value_and_gradient(self, rho):
        rho = torch.tensor(rho, requires_grad=True)
        loss = self.layer(rho)
        loss.backward()
        return loss.item(), rho.grad.numpy()


class ByHand:
    """One kept matrix and factorisation, kept assemblers, a transposed solve with the same."""

    def __init__(self, nx):
        with stop_annotating():
            p = Problem(nx)
            V = p.temperature.function_space()
            self.problem, self.multiplier = p, Function(V)
            heat = p.heat(TrialFunction(V), TestFunction(V))
            self.source = assemble(p.compliance(TestFunction(V)))
            p.bc.zero(self.source)
            assembler = get_assembler(heat, bcs=p.bc, mat_type="aij")
            self.matrix = assembler.assemble()
            self.assemble_matrix = assembler.assemble
            self.assemble_value = get_assembler(p.compliance(p.temperature)).assemble
            self.assemble_right_side = get_assembler(
                derivative(p.compliance(p.temperature), p.temperature)
            ).assemble
            weighted = -p.heat(p.temperature, self.multiplier)
            self.assemble_gradient = get_assembler(derivative(weighted, p.rho)).assemble
            self.solver = PETSc.KSP().create(comm=V.mesh().comm)
            self.solver.setOperators(self.matrix.petscmat)
            set_options(self.solver, OPTIONS)

    @no_annotations
    def value_and_gradient(self, rho):
        p = self.problem
        p.rho.dat.data_wo[:] = rho
        self.assemble_matrix(tensor=self.matrix)
        self.solver.setOperators(self.matrix.petscmat)
        with self.source.dat.vec_ro as b, p.temperature.dat.vec_wo as x:
            self.solver.solve(b, x)
        value = self.assemble_value()
        right_side = self.assemble_right_side()
        p.bc.zero(right_side)
        with right_side.dat.vec_ro as b, self.multiplier.dat.vec_wo as x:
            self.solver.solveTranspose(b, x)
        return float(value), self.assemble_gradient().dat.data_ro.copy()


class WithPyadjoint:
    """Firedrake's kept solver and pyadjoint's ReducedFunctional, evaluated again and again."""

    def __init__(self, nx):
        with recording() as tape:
            p = Problem(nx)
            V = p.temperature.function_space()
            v = TestFunction(V)
            heat = p.heat(TrialFunction(V), v)
            problem = LinearVariationalProblem(heat, p.compliance(v), p.temperature, p.bc)
            LinearVariationalSolver(problem, solver_parameters=OPTIONS).solve()
            J = assemble(p.compliance(p.temperature))
            self.Jhat = ReducedFunctional(J, Control(p.rho), tape=tape)
            self.space = p.rho.function_space()

    def value_and_gradient(self, rho):
        field = Function(self.space)
        field.dat.data_wo[:] = rho
        value = self.Jhat(field)
        return float(value), self.Jhat.derivative().dat.data_ro.copy()
