"""Reaction rates: R(a, b) of A + B -> C from sensors in a flow past a cylinder."""

import sys
from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from firedrake import *
from firedrake.adjoint import stop_annotating

import femnn
from benchmarks.published import fields, framework
from benchmarks.published.methods import OURS, OURS_LONGER, THEIRS, by_femnn, side_by_side
from benchmarks.published.training import Budget
from demos.studies.reaction.experiment import Experiment, rate_at
from demos.studies.reaction.figure import LINES
from demos.studies.reaction.model import DURATION, SOLVER, network, rate, truth

NAME = "reaction_rates"
TITLE = "A reaction's rate in a flow"
PLAIN, EXACT = "femnn, N(a, b)", "true law"
ERRORS = {
    "rate_error": ("error of R", ".2%"),
    "prediction_error": ("error of c, other sources", ".2%"),
}
COLUMNS = {**ERRORS, **{k: framework.COLUMNS[k] for k in list(framework.COLUMNS)[2:]}}
STYLES = {OURS: "C0", THEIRS: "C1--", OURS_LONGER: "C2", PLAIN: "C3"}


@dataclass(frozen=True)
class Settings:
    """What a run takes.

    Attributes
    ----------
    steps, duration
        In time, of the model; the data have twice as many steps.
    iterations, iterations_plain
        L-BFGS-B iterations of both methods; of N(a, b) with no a b before it.
    hidden, seed
        Widths of the hidden layers; of weights and noise.
    """

    iterations: int
    iterations_plain: int
    steps: int = 30
    duration: float = DURATION
    hidden: tuple[int, ...] = (16, 16)
    seed: int = 0


SETTINGS = {
    "paper": Settings(40, 40),
    "short": Settings(5, 150),
    "reduced": Settings(2, 2, steps=2, duration=0.2, hidden=(2, 2)),
}


class Problem(Experiment):
    """The data, the model with a method's network, and errors.

    Attributes
    ----------
    parameters
        PETSc's options for the model's steps.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings.steps, settings.seed, settings.duration)
        # Tighter than the study's: the two losses, in units of the noise, are to agree.
        self.parameters = {**SOLVER, "snes_rtol": 1e-9}

    def network(self, settings: Settings) -> femnn.MLP:
        """A positive network of a and b, as far as the run goes."""
        return network(settings.seed, self.states.max(0), settings.hidden)

    def model(self, method, power: int = 1):
        """The misfit as a function of the method, with a power of a b before the network."""
        solver = partial(method.nonlinear_solver, parameters=self.parameters)
        reactor = self.reactor(rate(method.law, power), make_solver=solver)
        return self.misfit(reactor)

    def predicted(self, law) -> dict:
        """The error of c with other sources, and how much of C flows out."""
        found, outflow = self.predict(law)
        return {"prediction_error": self.prediction_error(found), "outflow": outflow}

    def errors(self, net: femnn.MLP, power: int = 1) -> dict:
        """The error of R where the run with the true law goes, and the prediction's."""
        with stop_annotating():
            law = rate(partial(femnn.NeuralCoefficient, net), power)
            return {"rate_error": self.rate_error(net, power), **self.predicted(law)}

    def exact_row(self) -> dict:
        """What the coarser model does with the true law."""
        loss = float(self.misfit(self.reactor(truth)))
        return {"rate_error": 0.0, **self.predicted(truth), "loss": loss}

    def reached(self) -> list[float]:
        """The largest a near each of the lines."""
        a, b = self.states.T
        return [float(a[abs(b - line) < 0.05].max(initial=0.1)) for line in LINES]


def run(settings: Settings) -> dict:
    """Both methods, the plain network, and what the true law reaches on the same mesh."""
    problem = Problem(settings)
    net, plain = problem.network(settings), problem.network(settings)
    budget = Budget(settings.iterations)
    rows = side_by_side(problem.model, net, problem.mesh, problem.errors, budget)
    rows[PLAIN] = train_plain(problem, plain, settings.iterations_plain)
    return {
        "rows": rows,
        "known": {EXACT: problem.exact_row()},
        "outflow": problem.outflow,
        "largest": problem.states.max(0).tolist(),
        "reached": problem.reached(),
        "readings": problem.readings.size,
    }


def train_plain(problem: Problem, net: femnn.MLP, iterations: int) -> dict:
    """Femnn's training of N(a, b) with no a b before it, with its errors."""
    model, errors = partial(problem.model, power=0), partial(problem.errors, power=0)
    return by_femnn(model, net, problem.mesh, errors, Budget(iterations))


def figure(results: dict) -> plt.Figure:
    """The training, the rates along lines, and the prediction."""
    rows, settings = results["rows"], results["settings"]
    drawn, (training, rates, outflow) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    fields.losses_in_time(training, rows, STYLES)
    training.axhline(results["known"][EXACT]["loss"], color="k", linestyle=":")
    for b, reached in zip(LINES, results["reached"], strict=True):
        line = np.stack((np.linspace(0, reached, 200), np.full(200, b)), 1)
        rates.plot(line[:, 0], truth(*line.T), "k", linewidth=4, alpha=0.3)
        rates.annotate(f"b = {b}", (reached, truth(reached, b)), fontsize=8)
        for name, row in rows.items():
            values = rate_at(trained(results, row["weights"]), name != PLAIN, line)
            rates.plot(line[:, 0], values, STYLES[name])
    top = 1.6 * max(truth(a, b) for a, b in zip(results["reached"], LINES, strict=True))
    rates.set(xlabel="a", ylabel="R(a, b)", title="rate where the run goes", ylim=(0, top))
    times = np.linspace(0, settings["duration"], settings["steps"] + 1)[1:]
    outflow.plot(times, results["outflow"], "k", linewidth=4, alpha=0.3, label="truth")
    outflow.plot([], [], "k:", label="loss of the true law")
    for name, row in rows.items():
        outflow.plot(times, row["outflow"], STYLES[name], label=name)
    outflow.set(title="other sources, not fitted", xlabel="time", ylabel="outflow of C")
    outflow.set_xlim(settings["duration"] / 2, settings["duration"])
    handles, labels = outflow.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn


def trained(results: dict, weights: list[float]) -> femnn.MLP:
    """The network with these weights."""
    net = network(0, np.array(results["largest"]), results["settings"]["hidden"])
    values = torch.tensor(weights, dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(values, net.parameters())
    return net


def report(results: dict) -> str:
    """Errors and times."""
    rows = results["rows"]
    return "\n\n".join(
        [
            "Not the paper's, but ours (`demos/studies/reaction`): a, b and c in a steady flow "
            "past a cylinder, in which A + B -> C at the rate R(a, b); nonlinear. The truth is "
            f"20 a b / (1 + 3a + b)². Fitted: {results['readings']} readings of a and c with 1 % "
            "of noise, by R = a b N(a, b) with a positive 2-16-16-1 network. Not fitted: c with "
            "other sources.",
            framework.settings_table(results, "the study")
            + " But L-BFGS has its default memory, 10 (the study 40), and Newton's tolerance "
            "is 1e-9 (1e-7).",
            framework.method_table({**results["known"], **rows}, COLUMNS),
            "The error of R is over all nodes and steps of the run with the true law, that of c "
            f"over space and time. *{EXACT}* on the same mesh is what discretisation and noise "
            "cost. The iterations of both methods are those for which the network in UFL has time "
            "here, not those that the law needs.",
            framework.verdict({"this problem": rows}, ERRORS, COLUMNS),
            plain_network(results),
        ]
    )


def plain_network(results: dict, last: int = 10) -> str:
    """What N(a, b) with no a b before it reaches, and whether it has converged."""
    row, losses = results["rows"][PLAIN], results["rows"][PLAIN]["history"]
    fall = 1 - losses[-1] / losses[max(0, len(losses) - 1 - last)]
    return (
        f"*{PLAIN}* is femnn alone with R = N(a, b), which does not know that there is no reaction "
        f"where a species is missing. After {row['iterations']} of at most "
        f"{results['settings']['iterations_plain']} iterations its loss is "
        f"{row['loss']:.3g}, the true law's on this mesh {results['known'][EXACT]['loss']:.3g}; "
        f"over the last {min(last, row['iterations'])} iterations it fell by {fall:.1%}."
    )


if __name__ == "__main__":
    framework.main(sys.modules[__name__])
