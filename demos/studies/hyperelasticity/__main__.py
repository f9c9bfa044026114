"""Recover the stored energy of a rubber sheet from its displacements and two forces.

``python -m demos.studies.hyperelasticity`` runs it; ``--help`` lists the options.

A square sheet with a hole, in plane strain, is pulled and pushed at its right and upper sides,
which slide in clamps; by symmetry a quarter of it is the model.  The true law is Isihara's (see
``sheet.py``).  In each of six load steps the displacements of all nodes and the two
forces in the clamps are measured: with the true law on a mesh with half as wide cells, as they are
and with independent noise (1e-3 of the sheet's width at each node, 0.5 % of the largest force).

The energy is a network N of three invariants that is convex for all weights, and increases in the
first two, as a stable material's energy (a polyconvex one) does.  What N has at rest is taken away,
value and slope in J, so that energy and stress vanish there for all weights:
``W = N(I1, I2^1.5, J) - N(3, 3^1.5, 1) - dN/dJ(3, 3^1.5, 1) (J - 1)``.

The stress is ``P = sum_i dW/dI_i dI_i/dF``, where ``femnn.Gradient`` makes dW/dI a coefficient.
Its derivative, the network's second, is in Newton's tangent, which is symmetric because there is a
potential.  The misfit J is a quarter of the mean square differences of displacements and of
forces, each in units of its noise.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import *
from firedrake.petsc import PETSc

import femnn
from demos.studies import common
from demos.studies.common import relative_difference

from .sheet import (
    DEGREE,
    FORCE_NOISE,
    NOISE,
    PATHS,
    Sheet,
    add_noise,
    invariants,
    observe,
    quarter,
    true_law,
    truth,
    visited,
    visited_paths,
)

REST = [[3.0, 3.0**1.5, 1.0]]
COLUMNS = {
    **{f"{name}_error": (name, ".2%") for name in PATHS},
    "loss": ("loss", ".3e"),
    "iterations": ("iterations", "d"),
    "seconds": ("seconds", ".1f"),
}


class StoredEnergy(torch.nn.Module):
    """A convex network of the invariants without energy and stress at rest."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("rest", torch.tensor(REST, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = femnn.Gradient(self.net)(self.rest)[:, 2:]
        return self.net(x) - self.net(self.rest) - slope * (x[:, 2:] - 1)


def recover(geometry: tuple, displacements: list, forces: np.ndarray, chosen) -> tuple:
    """Train the energy; returns it, the sheet, and what the training did."""
    ranges = [(3, 4), (5, 7.5), (0.6, 1.6)]
    net = femnn.ConvexMLP(*(3, 12, 12, 1), increasing=[0, 1], input_range=ranges, seed=chosen.seed)
    energy = StoredEnergy(net)
    gradient = femnn.Gradient(energy)
    sheet = Sheet(*geometry, lambda x: femnn.NeuralCoefficient(gradient, *x, degree=DEGREE))
    data, area = Function(sheet.V), assemble(Constant(1.0) * dx(geometry[1]))
    spread = FORCE_NOISE * abs(forces).max()
    get_working_tape().clear_tape()
    continue_annotation()
    J = 0.0
    for u, measured, pair in zip(sheet.steps(), displacements, forces, strict=True):
        data.assign(measured)
        J += femnn.assemble((0.25 / area / NOISE**2) * (u - data) ** 2 * dx(degree=DEGREE))
        for found, force in zip(sheet.forces(), pair, strict=True):
            J += 0.25 / spread**2 * (found - float(force)) ** 2
    Jhat = ReducedFunctional(J / len(forces), Control(femnn.Weights.of(gradient)))
    pause_annotation()
    Jhat.optimize_tape()
    result = femnn.fit(Jhat, maxiter=chosen.iterations, options={"maxcor": 60})
    return energy, sheet, result


def newton(sheet: Sheet) -> tuple[list[list[float]], float]:
    """The residual's norm at Newton's iterates in each step, and the tangent's asymmetry."""
    snes, norms, asymmetry = sheet.solver.snes, [], 0.0
    snes.setConvergenceHistory(length=100, reset=True)
    for _ in sheet.steps():
        norms.append(snes.getConvergenceHistory()[0].tolist())
        tangent = snes.getJacobian()[0]
        mirrored = tangent.transpose(PETSc.Mat())
        mirrored.axpy(-1.0, tangent)
        asymmetry = max(asymmetry, mirrored.norm() / tangent.norm())
    return norms, asymmetry


def stress(energy, F: np.ndarray) -> np.ndarray:
    """P11, P12, P21, P22 for rows of F11, F12, F21, F22."""
    at = torch.tensor(F, requires_grad=True)
    energy(torch.stack(invariants(*at.T), 1)).sum().backward()
    return at.grad.numpy()


def true_energy(x: torch.Tensor) -> torch.Tensor:
    """The true energy as a module would give it."""
    return truth(*x.T)


def draw(nets: dict, runs: dict, states: np.ndarray, paths: dict) -> plt.Figure:
    """Stresses on the paths, the states that the sheet visits, Newton's convergence."""
    figure, (law, range_, newton) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    entries, styles = (
        {"uniaxial": 0, "shear": 1, "biaxial": 0},
        dict(zip(nets, ("-", "--"), strict=True)),
    )
    meanings = {"truth": {"linewidth": 5, "alpha": 0.3}}
    meanings |= {f"learned, {run}": {"linestyle": style} for run, style in styles.items()}
    for color, (name, F) in zip(("C0", "C1", "C2"), paths.items(), strict=True):
        amount, entry = np.abs(F - [1, 0, 0, 1]).max(1), entries[name]
        law.plot(amount, stress(true_energy, F)[:, entry], color, **meanings["truth"])
        for run, style in styles.items():
            law.plot(amount, stress(nets[run], F)[:, entry], color + style)
        errors = " and ".join(f"{100 * runs[run][name + '_error']:.2g} %" for run in nets)
        meanings[f"{name}, P1{entry + 1}: {errors} off"] = {"color": color}
        I1, _, J = invariants(*F.T)
        range_.plot(I1, J, color, linewidth=2, label=name)
    law.set(xlabel="stretch - 1, or shear (dimensionless)", ylabel="stress (dimensionless)")
    common.legend(law, meanings)
    range_.plot(*states.T, "k.", markersize=1, alpha=0.3, zorder=0, label="in the sheet")
    range_.set(xlabel="isochoric I1 (dimensionless)", ylabel="J (dimensionless)")
    range_.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, markerscale=6)
    for step, norms in enumerate(next(iter(runs.values()))["newton"], start=1):
        newton.semilogy(norms, ".-", label=f"load step {step}")
    newton.set(xlabel="Newton iteration", ylabel="norm of the residual (dimensionless)")
    newton.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return figure


def main(argv: list[str] | None = None) -> dict:
    """Run the study; returns the numbers that it writes."""
    watch = common.Stopwatch()
    parser = common.options("hyperelasticity", __doc__, 8, 100, 0)
    chosen = parser.parse_args(argv)
    geometry = quarter(chosen.cells)
    V = VectorFunctionSpace(geometry[1], "P", 2)
    exact = observe(chosen.cells, V)
    noisy = add_noise(chosen.cells, *exact, geometry[0], chosen.seed)
    states = visited(Sheet(*geometry, true_law), exact[0])
    paths = visited_paths(states)
    nets, runs, fields = {}, {}, []
    for name, data in {"no noise": exact, "noise": noisy}.items():
        nets[name], sheet, result = recover(geometry, *data, chosen)
        norms, asymmetry = newton(sheet)
        errors = {
            f"{path}_error": relative_difference(stress(nets[name], F), stress(true_energy, F))
            for path, F in paths.items()
        }
        runs[name] = {**errors, "newton": norms, "asymmetry": asymmetry}
        runs[name] |= common.numbers_of(result)
        data[0][-1].rename(f"displacement measured {name}")
        sheet.u.rename(f"displacement learned {name}")
        fields += [data[0][-1], sheet.u]
    reach = {name: float(abs(F - [1, 0, 0, 1]).max()) for name, F in paths.items()}
    sizes = {"cells": chosen.cells, "seed": chosen.seed, "load_steps": len(exact[1])}
    numbers = {**sizes, "reach": reach, "runs": runs, "seconds": watch.seconds()}
    until = ", ".join(f"{name} {amount:.2f}" for name, amount in reach.items())
    common.show(f"Stress, relative error on three paths (up to {until}):", runs, COLUMNS)
    if COMM_WORLD.rank == 0:
        norms = " ".join(f"{norm:.0e}" for norm in runs["no noise"]["newton"][3])
        print(f"Newton's residuals, load step 4: {norms}")
        print(f"Asymmetry of the tangent, |A - A^T| / |A|: {runs['no noise']['asymmetry']:.0e}")
    saved = dict(zip(("network", "network_noise"), (e.net for e in nets.values()), strict=True))
    figure = partial(draw, nets, runs, states, paths)
    common.write_results(chosen.output, numbers, figure, saved, fields)
    return numbers


if __name__ == "__main__":
    main()
