"""How all laws are fitted: by Gauss and Newton's method, with everything else by the data, too."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

import femnn
from demos.studies.common import Stopwatch

from .data import Winters
from .laws import Laws
from .model import Columns, Errors

BEFORE = 2  # rounds in a pass that is not the last
MEMORIES = 0.5, 300.0  # days, between which the errors' memory is sought


@dataclass
class Protocol:
    """The same for all laws.

    Attributes
    ----------
    winters
        How the record is cut.
    spread
        Standard deviation of the logarithm of a winter's water.
    parts, forgotten
        Of each winter, which run side by side; days that they run before they count.
    every
        Days from one datum to the next.
    passes
        How often the errors' sizes and memory are found anew, with a fit before each.
    rounds
        Of fit and evidence in the last pass, at most; others have no more than two.
    iterations
        Of Gauss-Newton in a round.
    """

    winters: Winters
    spread: float
    parts: int
    forgotten: int
    every: int
    passes: int
    rounds: int
    iterations: int

    def fit(self, name: str, laws: Laws, with_water: bool, spread_known: bool = True) -> dict:
        """Fit laws to the fitted winters.

        The precisions of the weights are those of the largest evidence, the errors those that the
        residuals of the pass before are most probable with.

        Parameters
        ----------
        name
            Of the laws, for the terminal.
        laws
            The laws, where they begin.
        with_water
            Whether each winter has its own water.
        spread_known
            Whether the spread of the water is the stated one, not that of the largest evidence.
        """
        watch, winters = Stopwatch(), self.winters
        parts = winters.cut(self.parts, self.forgotten)
        columns = Columns(winters.record, laws, parts, self.every)
        priors = [femnn.GaussianPrior(columns.weights, mean=columns.weights.vector.copy())]
        if with_water:
            precision = self.spread**-2
            priors.append(femnn.GaussianPrior(columns.log_w, precision, fixed=spread_known))
        results = []
        for i in range(self.passes):
            if i:
                residuals = columns.simulate() - columns.measured
                columns.take(errors_of(residuals, self.every))
            last = i == self.passes - 1
            rounds = self.rounds if last else min(self.rounds, BEFORE)
            results.append(self._with_evidence(columns, priors, rounds))
        row = self._row(columns, priors, results) | {"seconds": watch.seconds()}
        print(f"{name}: {told(row)}", flush=True)
        return row

    def _with_evidence(self, columns: Columns, priors: list, rounds: int) -> femnn.EvidenceResult:
        columns.noise.assign(1.0)
        return femnn.fit_with_evidence(
            columns.record_density(*priors),
            rounds=rounds,
            maxiter=self.iterations,
            progress=False,
        )

    def _row(self, columns: Columns, priors: list, results: list) -> dict:
        posterior, solves = results[-1].posterior, [r.solves for r in results]
        log_w = columns.log_w.values()
        std = posterior.of(columns.log_w).std if len(priors) > 1 else 0 * log_w
        spread = priors[1].precision[0] ** -0.5 if len(priors) > 1 else 0.0
        return {
            "laws": columns.laws,
            "columns": columns,
            "posterior": posterior,
            "weights": len(columns.weights),
            "numbers": len(posterior.mean),
            "with_water": len(priors) > 1,
            "effective": posterior.effective_parameters,
            "log_evidence": posterior.log_evidence,
            "history": [r.history for r in results],
            "converged": results[-1].converged,
            "precision": dict(zip(priors[0].names, priors[0].precision.tolist(), strict=True)),
            "noise": (float(columns.noise) * columns.errors.std).tolist(),
            "memory": columns.errors.memory.tolist(),
            "log_w": log_w.tolist(),
            "log_w_std": std.tolist(),
            "spread": float(spread),
            "runs": sum(s.forward + s.adjoint for s in solves),
            "steps": columns.n_days * sum(s.forward + s.adjoint + s.tangent for s in solves),
            "systems": sum(s.linear for s in solves),
        }


def told(row: dict) -> str:
    """What a fit has found, in a line."""
    w, ended = np.exp(row["log_w"]), "" if row["converged"] else " (not converged)"
    noise, memory = (f"{min(row[key]):.2f} to {max(row[key]):.2f}" for key in ("noise", "memory"))
    return (
        f"log evidence {row['log_evidence']:.1f}{ended}, {row['effective']:.1f} effective "
        f"parameters of {row['numbers']}, errors {noise} K for {memory} days, "
        f"water {w[0]:.2f} and {w[1]:.2f}, {row['seconds']:.0f} s"
    )


def errors_of(residuals: np.ndarray, every: int) -> Errors:
    """The size and the memory of each thermometer's errors with which residuals are most probable.

    Parameters
    ----------
    residuals
        Shape (times, columns, depths), NaN in gaps.
    every
        Days from one to the next.
    """
    errors = Errors(residuals.shape[-1])
    for depth, own in enumerate(np.moveaxis(residuals, -1, 0)):
        n = np.isfinite(own).sum()

        def unlikely(log_memory: float, own: np.ndarray = own, n: int = n) -> float:
            squares, logarithms = whitened(own, every, np.exp(log_memory))
            return 0.5 * n * np.log(squares / n) + logarithms

        found = minimize_scalar(unlikely, bounds=np.log(MEMORIES), method="bounded")
        errors.memory[depth] = np.exp(found.x)
        squares, _ = whitened(own, every, errors.memory[depth])
        errors.std[depth] = np.sqrt(squares / n)
    return errors


def whitened(residuals: np.ndarray, every: int, memory: float) -> tuple[float, float]:
    """Sums over what is new in each residual, which the one before does not say.

    Parameters
    ----------
    residuals
        Shape (times, columns), NaN in gaps.
    every, memory
        Days from one to the next, and after which they are correlated by 1 / e.

    Returns
    -------
    squares, logarithms : float
        Of what is new over the part of the size that it should have; of that part.
    """
    squares = logarithms = 0.0
    before, since = np.full((2, residuals.shape[1]), np.nan)
    for r in residuals:
        kept = np.where(np.isnan(before), 0.0, np.exp(-np.nan_to_num(since) / memory))
        new, lost = r - kept * np.nan_to_num(before), 1 - kept**2
        known = np.isfinite(r)
        squares += (new[known] ** 2 / lost[known]).sum()
        logarithms += 0.5 * np.log(lost[known]).sum()
        before, since = np.where(known, r, before), np.where(known, every, since + every)
    return squares, logarithms
