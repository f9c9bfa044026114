"""femnn: neural networks inside Firedrake finite element models, trained by adjoints.

The names are imported when they are first used, so that ``femnn.networks`` and
``femnn.evaluation`` work where only torch and numpy are installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from femnn.adaptive import AdaptiveSteps
    from femnn.checkpointing import enable_checkpointing
    from femnn.coefficient import NeuralCoefficient
    from femnn.comparison import ImplicitStep, compare_schemes
    from femnn.constrained import ConvexMLP, MonotoneMLP
    from femnn.equations import solve
    from femnn.features import FourierFeatures, InputScaling, PeriodicInputs
    from femnn.functionals import assemble
    from femnn.laws import Even, Odd, SPDTensor, SymmetricTensor
    from femnn.layer import PDELayer
    from femnn.networks import MLP, Gradient
    from femnn.ode import RungeKutta
    from femnn.operator import apply
    from femnn.problem import NeuralVariationalProblem
    from femnn.reaction import PointwiseODE
    from femnn.solving import NeuralVariationalSolver
    from femnn.splitting import LieSplitting, StrangSplitting
    from femnn.stepping import TimeStepper
    from femnn.storage import load, save
    from femnn.symbolic import to_ufl
    from femnn.tables import save_table
    from femnn.training import FitResult, fit
    from femnn.weights import Weights

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AdaptiveSteps",
    "ConvexMLP",
    "Even",
    "FitResult",
    "FourierFeatures",
    "Gradient",
    "ImplicitStep",
    "InputScaling",
    "LieSplitting",
    "MonotoneMLP",
    "NeuralCoefficient",
    "NeuralVariationalProblem",
    "NeuralVariationalSolver",
    "Odd",
    "PDELayer",
    "PeriodicInputs",
    "PointwiseODE",
    "RungeKutta",
    "SPDTensor",
    "StrangSplitting",
    "SymmetricTensor",
    "TimeStepper",
    "Weights",
    "apply",
    "assemble",
    "compare_schemes",
    "enable_checkpointing",
    "fit",
    "load",
    "save",
    "save_table",
    "solve",
    "to_ufl",
]

_MODULES = {
    "adaptive": ("AdaptiveSteps",),
    "checkpointing": ("enable_checkpointing",),
    "coefficient": ("NeuralCoefficient",),
    "comparison": ("ImplicitStep", "compare_schemes"),
    "constrained": ("ConvexMLP", "MonotoneMLP"),
    "features": ("FourierFeatures", "InputScaling", "PeriodicInputs"),
    "functionals": ("assemble",),
    "laws": ("Even", "Odd", "SPDTensor", "SymmetricTensor"),
    "layer": ("PDELayer",),
    "ode": ("RungeKutta",),
    "operator": ("apply",),
    "networks": ("MLP", "Gradient"),
    "problem": ("NeuralVariationalProblem",),
    "reaction": ("PointwiseODE",),
    "equations": ("solve",),
    "solving": ("NeuralVariationalSolver",),
    "splitting": ("LieSplitting", "StrangSplitting"),
    "stepping": ("TimeStepper",),
    "storage": ("load", "save"),
    "symbolic": ("to_ufl",),
    "tables": ("save_table",),
    "training": ("FitResult", "fit"),
    "weights": ("Weights",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'femnn' has no attribute {name!r}")
    value = getattr(import_module(f"femnn.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
