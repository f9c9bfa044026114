"""femnn: neural networks inside Firedrake finite element models, trained by adjoints."""

from femnn.coefficient import NeuralCoefficient
from femnn.forms import assemble
from femnn.networks import MLP, Gradient, InputScaling
from femnn.solving import NeuralVariationalProblem, NeuralVariationalSolver, solve
from femnn.storage import load, save
from femnn.symbolic import to_ufl
from femnn.training import FitResult, fit
from femnn.weights import Weights

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "FitResult",
    "Gradient",
    "InputScaling",
    "NeuralCoefficient",
    "NeuralVariationalProblem",
    "NeuralVariationalSolver",
    "Weights",
    "assemble",
    "fit",
    "load",
    "save",
    "solve",
    "to_ufl",
]
