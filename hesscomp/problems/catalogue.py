"""The named problems: their data, networks, losses and training recipes; and the equations."""

import math
from dataclasses import dataclass
from numbers import Real

from hesscomp.errors import InputError

COVARIANCES = ("observed", "robust")
RIDGE = 1e-3  # of logistic regression; networks have none unless requested
SIGMOID_LOSS, SOFTMAX_LOSS = "sigmoid-cross-entropy", "softmax-cross-entropy"


@dataclass(frozen=True)
class Network:
    """A chain of layers: stages of convolutions, each stage pooled 2 x 2, then dense layers.

    Attributes
    ----------
    shape : tuple of int
        Of one row.
    widths : tuple of int
        Units of the dense layers; the last gives logits and is linear.
    activation : str
        Of all other layers.
    stages : tuple of tuple of (size, channels)
        The convolutions, of size x size pixels, stride 1, padded with zeros to keep the image's
        size. Maxima of 2 x 2 pixels follow each stage.
    code : int or None
        Which dense layer is linear too: an autoencoder's narrowest.
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...]
    activation: str
    stages: tuple[tuple[tuple[int, int], ...], ...] = ()
    code: int | None = None

    def __str__(self) -> str:
        stages = ["-".join(f"{s}x{s}x{c}" for s, c in stage) + "-pool" for stage in self.stages]
        first = "x".join(map(str, self.shape))
        return "-".join([first, *stages, *map(str, self.widths)]) + f", {self.activation}"

    @classmethod
    def autoencoder(cls, *widths: int) -> "Network":
        """Return an autoencoder with these widths from input to linear code, and their mirror."""
        inner = (*widths[1:], *widths[-2::-1])
        return cls(widths[:1], inner, "sigmoid", code=len(widths) - 2)


@dataclass(frozen=True)
class Recipe:
    """Training by Adam, with step size `rate`; `optimizers.recipe.train_by_recipe` does it.

    Each batch is a random sample of the rows: `batch` of them and `epochs` passes over the data are
    what is expected.
    """

    epochs: int
    batch: int = 100
    rate: float = 1e-3

    def __str__(self) -> str:
        return f"Adam, {self.epochs} epochs in batches of {self.batch}, step {self.rate:g}"


ANY = Recipe(20)  # of problems that have no name


@dataclass(frozen=True)
class NamedProblem:
    """A data set, a loss and a network; no network means logistic regression.

    `data` is a name that `load_dataset` knows, `targets` what becomes of its labels. No recipe
    means Newton's method.
    """

    data: str
    targets: str
    loss: str
    network: Network | None
    recipe: Recipe | None


MNIST = (28, 28, 1)

NAMED_PROBLEMS = {
    "mnist-mlp": NamedProblem(
        "mnist", "classes", SOFTMAX_LOSS, Network((784,), (15, 10), "sigmoid"), Recipe(30)
    ),
    # After LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998), with maxima for its averages.
    "mnist-cnn": NamedProblem(
        "mnist", "classes", SOFTMAX_LOSS,
        Network(MNIST, (120, 84, 10), "tanh", (((5, 6),), ((5, 16),))), Recipe(10),
    ),
    # The two networks of simpleNN (github.com/cjlin1/simpleNN, Python/net/net.py).
    "mnist-cnn4": NamedProblem(
        "mnist", "classes", SOFTMAX_LOSS,
        Network(MNIST, (10,), "relu", (((5, 32),), ((3, 64),), ((3, 64),))), Recipe(5),
    ),
    "mnist-cnn7": NamedProblem(
        "mnist", "classes", SOFTMAX_LOSS,
        Network(
            MNIST, (10,), "relu",
            (((5, 32), (3, 32)), ((3, 64), (3, 64)), ((3, 64), (3, 128))),
        ),
        Recipe(5),
    ),
    # The two autoencoders of Hinton and Salakhutdinov (2006).
    "mnist-autoencoder": NamedProblem(
        "mnist", "input", SIGMOID_LOSS, Network.autoencoder(784, 1000, 500, 250, 30), Recipe(20)
    ),
    "curves-autoencoder": NamedProblem(
        "curves", "input", SIGMOID_LOSS, Network.autoencoder(784, 400, 200, 100, 50, 25, 6),
        Recipe(20),
    ),
    "adult-mlp": NamedProblem(
        "adult", "signs", SIGMOID_LOSS, Network((109,), (32, 1), "tanh"), Recipe(20)
    ),
    "adult-logistic": NamedProblem("adult", "signs", "logistic", None, None),
}  # fmt: skip


@dataclass(frozen=True)
class NamedEquation:
    """A differential equation and the network that solves it, posed in `problems.equations`.

    Attributes
    ----------
    about : str
        The equation and where it holds, for readers.
    minimised : str
        What the network is trained by.
    network : Network
    frozen : bool
        Whether all layers but the last keep their random weights.
    """

    about: str
    minimised: str
    network: Network
    frozen: bool = False


BURGERS, VISCOSITY = "burgers", 0.1 / math.pi
LEAST_VISCOSITY, MOST_VISCOSITY = 1e-6, 1.0
RESIDUAL, ENERGY, QUOTIENT = "residuals", "energy", "Rayleigh quotient"

EQUATIONS = {
    "poisson-1d": NamedEquation(
        "-u'' = f on (0, 1), u = sin 2 pi x", ENERGY, Network((1,), (16, 1), "tanh")
    ),
    # After Mueller and Zeinhofer (ICML 2023), and Dangel, Mueller and Zeinhofer (NeurIPS 2024).
    "poisson-2d": NamedEquation(
        "-lap u = f on a square, u = sin pi x sin pi y", RESIDUAL, Network((2,), (64, 1), "tanh")
    ),
    "poisson-2d-deep": NamedEquation(
        "as poisson-2d", RESIDUAL, Network((2,), (64, 64, 48, 48, 1), "tanh")
    ),
    "poisson-5d": NamedEquation(
        "-lap u = f on a cube, u = sum of cos pi x_i, new points each step", RESIDUAL,
        Network((5,), (64, 64, 48, 48, 1), "tanh"),
    ),
    "l-shape": NamedEquation(
        "lap u = 0 on an L, u = r^(2/3) sin(2 theta / 3)", RESIDUAL,
        Network((2,), (32, 32, 1), "tanh"),
    ),
    "helmholtz-2d": NamedEquation(
        "lap u + u = f on (-1, 1)^2, u = sin pi x sin 4 pi y", RESIDUAL,
        Network((2,), (32, 32, 1), "tanh"),
    ),
    BURGERS: NamedEquation(
        "u_t + u u_x = viscosity u_xx (0.1 / pi), u = -sin pi x at t = 0", RESIDUAL,
        Network((2,), (24, 24, 24, 1), "tanh"),
    ),
    "eigen-laplace": NamedEquation(
        "-lap u = lambda u on a square, u = 0 on its edge: the first u", QUOTIENT,
        Network((2,), (32, 1), "tanh"),
    ),
    # The rugged surface of Mueller and Brown (1979), as Li, Lin and Ren (J. Chem. Phys. 151, 2019)
    # took it, but with all coordinates rotated.
    "committor": NamedEquation(
        "committor of Mueller and Brown's surface in 10 dimensions, kT = 10", ENERGY,
        Network((10,), (200, 1), "tanh"), frozen=True,
    ),
}  # fmt: skip


def check_viscosity(problem: str | None, viscosity: float | None) -> None:
    """Refuse a viscosity that is out of range, or is given for another problem than `burgers`."""
    if viscosity is None:
        return
    if problem != BURGERS:
        raise InputError(f"`viscosity` goes with `problem` {BURGERS}; leave it out")
    number = isinstance(viscosity, Real) and not isinstance(viscosity, bool)
    if not (number and LEAST_VISCOSITY <= viscosity <= MOST_VISCOSITY):
        raise InputError(
            f"`viscosity` must be a number from {LEAST_VISCOSITY:g} to {MOST_VISCOSITY:g}, not "
            f"{viscosity!r}"
        )
