"""First-order baselines: SGD with momentum, Adam, AdamW, AdaBelief."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import numpy as np

from hesscomp.optimizers.batches import Task
from hesscomp.optimizers.optimizer import Optimizer, Outcome, State
from hesscomp.optimizers.schedules import EXAMPLE, Schedule, as_rate, parse_rate, rate_at
from hesscomp.options import option, option_of

CAREFUL = 0.5  # of the learning rate, after numbers that were not finite


@dataclass(frozen=True)
class FirstOrder(Optimizer):
    """What the baselines share: a learning rate, how it shrinks, and decoupled weight decay."""

    gradients_only = True
    learning_rate: float | str | Schedule = option(
        1e-3, above=0, parse=parse_rate, help=f"learning rate, or a schedule such as {EXAMPLE}"
    )
    decay: float = option(0.0, low=0, help="the rate of step k is divided by 1 + decay k")
    _: KW_ONLY
    weight_decay: float = option(
        0.0, low=0, help="times its rate, the share of the weights that each step takes away"
    )

    def __post_init__(self):
        object.__setattr__(self, "learning_rate", as_rate(self.learning_rate))  # of Keras' too
        super().__post_init__()

    def start(self, x):
        return {"steps": 0, "scale": 1.0, **{name: np.zeros_like(x) for name in self.moments}}

    def recover(self, state):
        return {**state, "scale": CAREFUL * state["scale"]}

    def step(self, task: Task, state: State) -> Outcome:
        rate = state["scale"] * rate_at(self.learning_rate, state["steps"])
        rate /= 1 + self.decay * state["steps"]
        state = {**state, "steps": state["steps"] + 1}
        direction = self._direction(task, state)
        if self.weight_decay:
            direction = direction - self.weight_decay * task.x
        change = rate * direction
        values = {"learning_rate": rate, "step_length": float(np.linalg.norm(change))}
        return Outcome(task.x + change, state, values)

    @abstractmethod
    def _direction(self, task: Task, state: State) -> np.ndarray:
        """Return the step at rate 1, and renew the moments in the state."""


@dataclass(frozen=True)
class SGD(FirstOrder):
    """v <- momentum v - g; x <- x + rate v, or with Nesterov x + rate (momentum v - g).

    Keras' update with a constant rate (its velocity is rate times this one). After a step to
    numbers that are not finite the rate is halved.

    Notes
    -----
    A step costs the gradient of its batch. Memory: one vector. Sutskever, Martens, Dahl and Hinton,
    "On the importance of initialization and momentum in deep learning" (ICML 2013).

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, hc.SGD(0.5, nesterov=True), max_steps=10).best_objective < 0.5
    True
    """

    learning_rate: float | str | Schedule = option_of(FirstOrder, "learning_rate", default=1e-2)
    momentum: float = option(0.9, low=0, below=1, help="share of the velocity that is kept")
    nesterov: bool = option(False, help="whether to take Nesterov's step")
    name = "sgd"
    moments = ("velocity",)

    def _direction(self, task, state):
        g = task.gradient
        state["velocity"] = self.momentum * state["velocity"] - g
        return self.momentum * state["velocity"] - g if self.nesterov else state["velocity"]


@dataclass(frozen=True)
class Adam(FirstOrder):
    """Adam: steps scaled by running means of gradients and of their squares.

    Notes
    -----
    A step costs the gradient of its batch. Memory: two vectors. Kingma and Ba, "Adam: a method for
    stochastic optimization" (ICLR 2015), algorithm 1.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> found = hc.train(problem, hc.Adam(0.1), gradient=0.1, max_steps=10)
    >>> found.best_objective < 0.5
    True
    """

    beta1: float = option(0.9, low=0, below=1, help="decay of the mean of gradients")
    beta2: float = option(0.999, low=0, below=1, help="decay of the mean of squares")
    epsilon: float = option(1e-8, above=0, help="what is added to the denominator")
    name = "adam"
    moments = ("mean", "square")

    def _direction(self, task, state):
        self.renew(task.gradient, state)
        return -state["mean"] / (1 - self.beta1 ** state["steps"]) / self.denominator(state)

    def renew(self, g: np.ndarray, state: State) -> None:
        """Renew the running means by a gradient."""
        state["mean"] = self.beta1 * state["mean"] + (1 - self.beta1) * g
        state["square"] = self._second_moment(g, state)

    def denominator(self, state: State) -> np.ndarray:
        """Return what the mean of gradients is divided by."""
        square = state["square"] / (1 - self.beta2 ** state["steps"])
        return np.sqrt(square) + self.epsilon

    def _second_moment(self, g, state):
        return self.beta2 * state["square"] + (1 - self.beta2) * g**2


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: each step also takes rate weight_decay x away from x.

    The decay is no part of the objective, as a ridge is, and acts on all parameters, biases too.

    Notes
    -----
    Cost and memory as `Adam`. Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR
    2019), algorithm 2; the default decay is that of Keras.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> optimizer = hc.AdamW("cosine:0.1,steps=10,warmup=2", weight_decay=1e-3)
    >>> hc.train(problem, optimizer, gradient=0.1, max_steps=10).best_objective < 0.5
    True
    """

    _: KW_ONLY
    weight_decay: float = option_of(FirstOrder, "weight_decay", default=4e-3)
    name = "adamw"


@dataclass(frozen=True)
class AdaBelief(Adam):
    """AdaBelief: as Adam, with the square of gradient - mean in place of the gradient's.

    Notes
    -----
    Cost and memory as `Adam`. Zhuang and others, "AdaBelief optimizer: adapting stepsizes by the
    belief in observed gradients" (NeurIPS 2020), algorithm 2.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.train(problem, hc.AdaBelief(0.1), max_steps=10).best_objective < 0.5
    True
    """

    epsilon: float = option_of(Adam, "epsilon", default=1e-16)
    name = "adabelief"

    def _second_moment(self, g, state):
        surprise = (g - state["mean"]) ** 2
        return self.beta2 * state["square"] + (1 - self.beta2) * surprise + self.epsilon
