"""The paper's own way to train networks in the monodomain equation: a torch loop over steps."""

from collections.abc import Callable

import torch
from firedrake import *
from firedrake.adjoint import *
from firedrake.ml.pytorch import fem_operator
from torch import Tensor

from demos.studies.tissue.membrane import SPREAD, SideBySide
from demos.studies.tissue.model import DIFFUSIVITY, STEP, STEPS, direct, entries
from demos.studies.tissue.training import ThroughTheTissue


class TorchLoop(ThroughTheTissue):
    """As its base class, with the steps in torch and Firedrake's own operator for diffusion.

    One solve is recorded and serves all steps.  Its matrix is constant, and is kept with its
    factors: pyadjoint would make them anew in each evaluation, of which each step is one, if the
    solve's tape were the working tape meanwhile.  Parameters as for :class:`ThroughTheTissue`;
    single-rank.
    """

    def record(self) -> Callable[..., Tensor]:
        self.membrane = SideBySide(self.net, self.runs)
        self.mass = _as_torch(assemble(inner(*_arguments(entries(self.mesh, 1))) * dx))
        V = entries(self.mesh, self.runs)
        v, before = Function(V), Function(V)
        u, w = _arguments(V)
        a = inner(u / STEP, w) * dx + inner(DIFFUSIVITY * grad(u), grad(w)) * dx
        problem = LinearVariationalProblem(
            a, inner(before / STEP, w) * dx, v, constant_jacobian=True
        )
        solver = LinearVariationalSolver(problem, solver_parameters=direct(self.mesh))
        with set_working_tape(Tape()):
            continue_annotation()
            solver.solve()
            pause_annotation()
            self.diffuse = fem_operator(ReducedFunctional(v, Control(before)))
        return self._march

    def _march(self, v: Tensor, gates: Tensor, *observed: Tensor) -> Tensor:
        v, total = v.reshape(-1, self.runs), torch.zeros((), dtype=v.dtype)
        for stimulus, seen, seen_gates in zip(*[iter(observed)] * 3, strict=True):
            source = stimulus.reshape(v.shape)
            for _ in range(STEPS):
                rates = self.membrane(torch.cat([v, gates, source], dim=1))
                changed = v + STEP * rates[:, : self.runs]
                v = self.diffuse(changed.reshape(1, -1)).reshape(v.shape)
                gates = gates + STEP * rates[:, self.runs :]
            total = total + self._square((v - seen.reshape(v.shape)) / SPREAD)
            total = total + self._square(gates - seen_gates)
        return total

    def _square(self, x: Tensor) -> Tensor:
        """The squared L2 norm of nodal values."""
        return (x * (self.mass @ x)).sum()


def _arguments(V) -> tuple:
    return TrialFunction(V), TestFunction(V)


def _as_torch(matrix) -> Tensor:
    """A PETSc matrix as a sparse tensor."""
    rows, columns, values = (torch.from_numpy(x) for x in matrix.M.handle.getValuesCSR())
    rows = torch.repeat_interleave(torch.arange(len(rows) - 1), rows.diff())
    places = torch.stack([rows, columns.long()])
    return torch.sparse_coo_tensor(places, values, check_invariants=True).coalesce()
