"""The models that are compared: each a law, fitted to the same readings."""

import numpy as np

import femnn
from demos.studies.common import Stopwatch

from .assimilation import Assimilation
from .judging import alone, scores, with_band
from .laws import Constant, Law, Network, PowerOfDepth, Textbook, Vegetated
from .model import Channel
from .twin import LEVEL_ERROR, Twin

FIRST_GUESS = "first guess"
LEARNED = "state and n = network(h)"
KNOWN = "state, n known"
LAWS = {
    FIRST_GUESS: Textbook,
    "state, textbook n": Textbook,
    "state and a constant n": Constant,
    "state and n = a h^-b": PowerOfDepth,
    LEARNED: Network,
    KNOWN: Vegetated,
}


class Comparison:
    """Models of one channel, fitted to one window of readings.

    Parameters
    ----------
    twin
        The truth and its readings.
    background
        The first guess of the initial state.
    cells, step
        Of the model.
    rounds, iterations
        Of fit and evidence, and of Gauss and Newton's method in each.
    """

    def __init__(
        self,
        twin: Twin,
        background: np.ndarray,
        cells: int,
        step: float,
        rounds: int,
        iterations: int,
    ):
        self.twin, self.background = twin, background
        self.cells, self.step = cells, step
        self.rounds, self.iterations = rounds, iterations

    def fit(self, name: str, law: Law) -> dict:
        """Find initial state and law, with all precisions and errors from the evidence."""
        watch = Stopwatch()
        channel = Channel(law, self.twin.forcing, self.cells, self.step)
        assimilation = Assimilation(channel, self.twin, self.background)
        row = {"law": law, "assimilation": assimilation, "weights": len(channel.weights)}
        if name == FIRST_GUESS:
            return row | {"solves": 0, "seconds": 0.0}
        result = femnn.fit_with_evidence(
            assimilation.record(), rounds=self.rounds, maxiter=self.iterations, progress=False
        )
        posterior = result.posterior
        print(f"{name}: {result.history[-1]:.1f} log evidence, {posterior}", flush=True)
        steps = channel.steps(0.0, assimilation.end)
        return row | {
            "posterior": posterior,
            "spectrum": posterior.spectrum,
            "effective": posterior.parameters_by_control().tolist(),
            "log_evidence": result.history[-1],
            "rounds": len(result.history),
            "converged": result.converged,
            "scales": {k: float(scale) for k, scale in assimilation.scales.items()},
            "prior_stds": [float(p.precision[0] ** -0.5) for p in assimilation.priors],
            "runs": {k: getattr(result.solves, k) for k in ("forward", "adjoint", "tangent")},
            "solves": steps
            * (result.solves.forward + result.solves.adjoint + result.solves.tangent),
            "seconds": watch.seconds(),
        }

    def judge(self, row: dict) -> None:
        """Run on through the tides after the window, and compare with the truth."""
        assimilation: Assimilation = row["assimilation"]
        if "posterior" not in row:
            row["run"] = alone(assimilation.channel, self.twin)
        else:
            Jhat, errors = assimilation.record_beyond()
            noise = LEVEL_ERROR * row["scales"]["level"]
            row["run"] = with_band(femnn.laplace(Jhat), errors, self.twin, noise)
        row["scores"] = scores(row["run"], self.twin)
        row["visited"], row["outside"] = self._visited(assimilation.channel)

    def _visited(self, channel: Channel) -> tuple[femnn.Visited, dict[str, float]]:
        """The depths of the window, and which part of the points leaves them in each tide."""
        visited: list[femnn.Visited] = []
        counted: dict[float, float] = {}
        window = self.twin.times.window

        def observe(state, time: float) -> None:
            if time == 0:
                return
            if not visited:
                visited.append(femnn.Visited(channel.n))
            if time <= window + 1e-6:
                visited[0].add()
            else:
                counted[time] = visited[0].outside(channel.n)

        alone(channel, self.twin, observe)
        number = {t: int(np.ceil(t / window - 1e-9)) - 1 for t in counted}
        return visited[0], {
            tide: float(np.mean([part for t, part in counted.items() if number[t] == i + 1]))
            for i, tide in enumerate(self.twin.times.tides)
        }
