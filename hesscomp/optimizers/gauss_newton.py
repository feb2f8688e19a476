"""Sub-sampled Gauss-Newton with Levenberg-Marquardt damping, made for convolutional networks.

Wang, Tan and Lin, "Newton methods for convolutional neural networks" (ACM TIST 11, 2020), and
their simpleNN.
"""

from dataclasses import dataclass

from hesscomp.krylov.cg import conjugate_gradients
from hesscomp.optimizers.acceptance import levenberg_marquardt
from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.optimizer import Optimizer, Outcome, State
from hesscomp.options import option


@dataclass(frozen=True)
class GaussNewton(Optimizer):
    """(G + (ridge + lambda) I) d = -g by CG, then backtracking by halves.

    Their objective ||theta||^2 / (2 C) + mean loss is a problem with ridge 1 / C; G is that of the
    curvature batch (1%, 5% or 10% of the rows in the paper), gradient and objective are of all.

    Notes
    -----
    A step costs the gradient, one Gauss-Newton product over the curvature batch for each CG
    iteration, and one objective for each halving. Memory: a few vectors. InputError from a problem
    that has no Gauss-Newton matrix.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> data = np.eye(2), np.array([1.0, 2.0])
    >>> hc.train(model, hc.GaussNewton(damping=0.1), "mse", data, max_steps=8).best_objective < 1e-2
    True
    """

    damping: float = option(
        1.0, above=0,
        help="first lambda; times 3/2 where the reduction ratio is below 1/4, 2/3 above 3/4",
    )  # fmt: skip
    forcing: float = option(0.1, above=0, below=1, help="relative residual of CG")
    max_cg: int = option(250, low=1, help="most CG iterations of a step")
    sufficient: float = option(
        1e-4, above=0, below=1, help="share of the expected decrease that a step must have"
    )
    max_halvings: int = option(
        30, low=1, help="most halvings of a step, after which the step is zero"
    )
    name = "gauss-newton"

    def start(self, x):
        return {"damping": self.damping}

    def recover(self, state):
        return {"damping": 10 * state["damping"]}

    def step(self, task: Task, state: State) -> Outcome:
        g, damping = task.gradient, state["damping"]
        matrix = task.regularized(task.curvature_batch.gauss_newton(task.x))
        solved = conjugate_gradients(
            matrix.shifted(damping),
            -g,
            tolerance=self.forcing * task.gradient_norm,
            max_iterations=self.max_cg,
        )
        d, line = solved.x, task.line(solved.x)
        search = line.search(sufficient=self.sufficient, trials=self.max_halvings + 1)
        # d^T (G + ridge I) d from the residual: (G + ridge I) d = -g - r - lambda d
        form = -(line.slope + float(d @ solved.residual) + damping * float(d @ d))
        model = search.length * line.slope + search.length**2 * form / 2
        ratio = (search.objective - task.value) / model if model < 0 else float("-inf")
        values = {
            "step_length": search.length,
            "cg_iterations": float(solved.iterations),
            "damping": damping,
            "ratio": float(ratio),
        }
        following = task.world.broadcast(float(levenberg_marquardt(damping, ratio)))
        return Outcome(line.end(search.length), {"damping": following}, values)
