"""Measure, compress and use the curvature of losses whose data are spread over MPI ranks.

    import hesscomp as hc

    H = hc.hessian(model, "sparse_categorical_crossentropy", (X, y))   # of a Keras model
    factor = hc.compress(H, rank=20)                                   # with its error estimate
    print(factor.eigenvalues, hc.trace(H))

The names below load when they are first used: ``import hesscomp`` itself loads neither TensorFlow
nor MPI.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from hesscomp import former

__version__ = "0.1.0"
former.install()

if TYPE_CHECKING:
    from hesscomp.api import compress as compress
    from hesscomp.api import density as density
    from hesscomp.api import diagonal as diagonal
    from hesscomp.api import empirical_fisher as empirical_fisher
    from hesscomp.api import fisher as fisher
    from hesscomp.api import ggn as ggn
    from hesscomp.api import hessian as hessian
    from hesscomp.api import jacobian as jacobian
    from hesscomp.api import kfac as kfac
    from hesscomp.api import load as load
    from hesscomp.api import load_data as load_data
    from hesscomp.api import logdet as logdet
    from hesscomp.api import newton as newton
    from hesscomp.api import norm as norm
    from hesscomp.api import per_example_gradients as per_example_gradients
    from hesscomp.api import per_example_squared_norms as per_example_squared_norms
    from hesscomp.api import report as report
    from hesscomp.api import save as save
    from hesscomp.api import trace as trace
    from hesscomp.api.linear import fit_linear as fit_linear
    from hesscomp.api.plotting import plot as plot
    from hesscomp.api.sensitivity import sensitivity as sensitivity
    from hesscomp.api.training import train as train
    from hesscomp.operators.matrix import MatrixOperator as MatrixOperator
    from hesscomp.operators.operator import Operator as Operator
    from hesscomp.optimizers.drsom import DRSOM as DRSOM
    from hesscomp.optimizers.first_order import SGD as SGD
    from hesscomp.optimizers.first_order import AdaBelief as AdaBelief
    from hesscomp.optimizers.first_order import Adam as Adam
    from hesscomp.optimizers.first_order import AdamW as AdamW
    from hesscomp.optimizers.gauss_newton import GaussNewton as GaussNewton
    from hesscomp.optimizers.hessian_free import HessianFree as HessianFree
    from hesscomp.optimizers.moving_mesh import moving_mesh as moving_mesh
    from hesscomp.optimizers.natural_gradient import NaturalGradient as NaturalGradient
    from hesscomp.optimizers.newton import Newton as Newton
    from hesscomp.optimizers.newton_cg import NewtonCG as NewtonCG
    from hesscomp.optimizers.ridge_path import ridge_path as ridge_path
    from hesscomp.optimizers.sketched import SaddleFree as SaddleFree
    from hesscomp.optimizers.sketched import SketchySGD as SketchySGD
    from hesscomp.optimizers.soap import SOAP as SOAP
    from hesscomp.parallel.world import World as World
    from hesscomp.problems.equations import equation as equation
    from hesscomp.problems.function import FunctionProblem as FunctionProblem
    from hesscomp.problems.keras import KerasProblem as KerasProblem
    from hesscomp.problems.linear import GeneralizedLinearModel as GeneralizedLinearModel
    from hesscomp.problems.logistic import LogisticRegression as LogisticRegression
    from hesscomp.problems.points import Box as Box
    from hesscomp.problems.points import Triangles as Triangles
    from hesscomp.problems.residuals import EnergyProblem as EnergyProblem
    from hesscomp.problems.residuals import Group as Group
    from hesscomp.problems.residuals import RayleighProblem as RayleighProblem
    from hesscomp.problems.residuals import ResidualProblem as ResidualProblem
    from hesscomp.problems.softmax import SoftmaxRegression as SoftmaxRegression

_PLACES = {
    "hesscomp.api": "compress density diagonal empirical_fisher fisher ggn hessian jacobian kfac "
    "load load_data logdet newton norm per_example_gradients per_example_squared_norms report save "
    "trace",
    "hesscomp.api.linear": "fit_linear",
    "hesscomp.api.plotting": "plot",
    "hesscomp.api.sensitivity": "sensitivity",
    "hesscomp.api.training": "train",
    "hesscomp.operators.matrix": "MatrixOperator",
    "hesscomp.operators.operator": "Operator",
    "hesscomp.optimizers.drsom": "DRSOM",
    "hesscomp.optimizers.first_order": "SGD AdaBelief Adam AdamW",
    "hesscomp.optimizers.gauss_newton": "GaussNewton",
    "hesscomp.optimizers.hessian_free": "HessianFree",
    "hesscomp.optimizers.moving_mesh": "moving_mesh",
    "hesscomp.optimizers.natural_gradient": "NaturalGradient",
    "hesscomp.optimizers.newton": "Newton",
    "hesscomp.optimizers.newton_cg": "NewtonCG",
    "hesscomp.optimizers.ridge_path": "ridge_path",
    "hesscomp.optimizers.sketched": "SaddleFree SketchySGD",
    "hesscomp.optimizers.soap": "SOAP",
    "hesscomp.parallel.world": "World",
    "hesscomp.problems.equations": "equation",
    "hesscomp.problems.function": "FunctionProblem",
    "hesscomp.problems.keras": "KerasProblem",
    "hesscomp.problems.linear": "GeneralizedLinearModel",
    "hesscomp.problems.logistic": "LogisticRegression",
    "hesscomp.problems.softmax": "SoftmaxRegression",
    "hesscomp.problems.points": "Box Triangles",
    "hesscomp.problems.residuals": "EnergyProblem Group RayleighProblem ResidualProblem",
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names.split()}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        missing = f"module 'hesscomp' has no attribute '{name}'"
        raise AttributeError(missing, name=name, obj=sys.modules[__name__])
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
