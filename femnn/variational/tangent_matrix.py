"""The tangent as a matrix, where conditions that are equations have rows in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import firedrake as fd
import numpy as np
from firedrake.assemble import get_assembler
from firedrake.petsc import DEFAULT_KSP_PARAMETERS, PETSc
from petsctools import OptionsManager, flatten_parameters

from femnn.coefficient.chain_rule import total_derivative
from femnn.fields.kept import KeptForms
from femnn.parallel import all_ranks
from femnn.variational.state import State

# How exactly the matrix's rows are those of the residual.
ROUNDING = 1e-8


class TangentMatrix:
    """The exact tangent's matrix, and a linear solver of its own, as it is and transposed.

    A transposed form has no conditions that are equations, a transposed matrix has.

    Parameters
    ----------
    state
        The state.
    parameters
        Linear solver options; Firedrake's default ones are a direct solver's.

    Attributes
    ----------
    ksp : PETSc.KSP
        The linear solver.
    """

    def __init__(self, state: State, parameters: Mapping):
        bcs = [bc.extract_form("J") for bc in state.firedrake_conditions()]
        options = {"form_compiler_parameters": state.problem.form_compiler_parameters}
        self._assemble = get_assembler(state.tangent, bcs=bcs, mat_type="aij", **options).assemble
        self._matrix = self._assemble()
        given = flatten_parameters(dict(parameters))
        defaults = {} if "ksp_type" in given or "pc_type" in given else DEFAULT_KSP_PARAMETERS
        self._options = OptionsManager({**defaults, **given}, None, default_prefix="femnn")
        self.ksp = PETSc.KSP().create(comm=state.comm)
        self.ksp.setOperators(self._matrix.petscmat)
        self._options.set_from_options(self.ksp)

    def solve(self, right_side: fd.Cofunction, solution: fd.Function, transposed: bool) -> Any:
        """Solve at the present state; PETSc's matrix.  Collective."""
        matrix = self._assemble(tensor=self._matrix).petscmat
        self.ksp.setOperators(matrix, matrix)
        solve = self.ksp.solveTranspose if transposed else self.ksp.solve
        with (
            self._options.inserted_options(),
            right_side.dat.vec_ro as b,
            solution.dat.vec_wo as x,
        ):
            solve(b, x)
        return matrix


def check_rows(state: State, matrix: Any) -> None:
    """Compare the matrix with the residual's derivative, in some direction.  Collective.

    Firedrake adds an equation's form to all rows of the residual and of the matrix, and takes
    rows away in another order, so that the two differ where a Dirichlet condition and an
    equation share nodes.

    Raises
    ------
    NotImplementedError
        If they differ.
    """
    space = state.unknown.function_space()
    probe = fd.Function(space)
    with probe.dat.vec_wo as vector:
        vector.array[:] = np.random.default_rng(0).standard_normal(vector.getLocalSize())
    for condition in state.conditions:
        condition.zero(probe)
    expected, kept = fd.Cofunction(space.dual()), KeptForms(state.problem.form_compiler_parameters)
    terms = [network.terms for network in state.networks]
    for part in state.parts:
        make = partial(total_derivative, part.form, state.unknown, probe, terms)
        assemble = kept(part, make)
        if assemble is not None:
            change = part.keep(assemble())
            with expected.dat.vec as total, change.dat.vec_ro as vector:
                total.axpy(1.0, vector)
    with probe.dat.vec_ro as x, expected.dat.vec_ro as y:
        product = y.duplicate()
        matrix.mult(x, product)
        product.axpy(-1.0, y)
        same = product.norm() <= ROUNDING * y.norm()
    if not all_ranks(state.comm, same):
        raise NotImplementedError(
            "an EquationBC shares nodes with a DirichletBC beside it, or its form has rows "
            "elsewhere, so that Firedrake's matrix is not the residual's derivative: give the "
            "DirichletBC to the EquationBC too, EquationBC(..., bcs=[...]), and let its form be an "
            "integral over its part of the boundary."
        )
