"""CURVES: 28 x 28 images of curves, each made of three random points, for autoencoders.

After the synthetic data of Hinton and Salakhutdinov (2006), "Reducing the dimensionality of data
with neural networks": curves "generated from three randomly chosen points in two dimensions", six
numbers an image. They do not say how; this generator is our own and is:

- p0, p1, p2 uniform on the square [5, 23] x [5, 23] of the image, whose pixel (row i, column j) is
  centred at (x, y) = (j + 1/2, i + 1/2);
- the parabola through them, b(t) = (1-t)(1-2t) p0 + 4 t (1-t) p1 + t (2t-1) p2, 0 <= t <= 1;
- ink in a pixel centred at c, the curve blurred by a Gaussian of standard deviation s = 0.8:
  w = (2 pi)^(-1/2) / s * integral of exp(-||c - b(t)||^2 / (2 s^2)) ||b'(t)|| dt, which is 1 on a
  long straight line;
- the pixel 1 - exp(-2 w), rounded to a multiple of 1/255.

The integral is Gauss-Legendre's with 96 nodes. The Gaussian is a product over the axes, so that an
image is one product of a (28, 96) and a (96, 28) matrix.
"""

import numpy as np

from hesscomp.datasets.dataset import Dataset, Shard, aligned_empty
from hesscomp.datasets.fingerprint import fingerprint
from hesscomp.datasets.targets import INPUT, with_targets
from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World

TRAINING, TEST = 20_000, 10_000
SEED = 2006
SIDE = 28
MARGIN = 5.0
BLUR = 0.8
GAIN = 2.0
NODES = 96
BATCH = 256  # images drawn together


def load_curves(world: World, targets: str | None = None, dtype: str | None = None) -> Dataset:
    """Make 20,000 training and 10,000 test images, (rows, 784) between 0 and 1. Collective.

    Each rank draws its own rows, the same on any number of ranks, at about 30 us a row.

    Parameters
    ----------
    targets : {"input"}, optional
        There are no labels.
    dtype : {"float32", "float64"}, optional
        Default: float32.
    """
    targets = targets or INPUT
    if targets != INPUT:
        raise InputError(f"curves: has no labels to make {targets} of; targets must be input")
    with world.phase("drawing curves"):
        parts = ((0, TRAINING), (TRAINING, TEST))
        shards = [_shard(first, total, world, dtype or "float32") for first, total in parts]
    train, test = (with_targets(shard, targets, world, "curves")[0] for shard in shards)
    hashed = fingerprint(train, world)
    return Dataset("curves", train, test, SIDE**2, None, targets, (), hashed)


def _shard(first: int, total: int, world: World, dtype: str) -> Shard:
    """Return this rank's share of the `total` images from the `first` on."""
    start, stop = row_range(total, world.rank, world.size)
    points = random.uniform(SEED, random.CURVE_POINTS, (first + start, first + stop), (0, 6))
    points = MARGIN + (SIDE - 2 * MARGIN) * points.reshape(-1, 3, 2)
    X = aligned_empty((stop - start, SIDE**2), dtype)
    for at in range(0, stop - start, BATCH):
        X[at : at + BATCH] = draw(points[at : at + BATCH])
    return Shard(X, np.zeros(stop - start), start, total)


def draw(points: np.ndarray) -> np.ndarray:
    """Return (curves, 784) float64 images of (curves, 3, 2) control points (x, y), in pixels."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    t, weights = (nodes + 1) / 2, weights / 2
    position = np.stack([(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)])
    velocity = np.stack([4 * t - 3, 4 - 8 * t, 4 * t - 1])
    x, y = np.einsum("cpd,pt->dct", points, position)
    speed = np.hypot(*np.einsum("cpd,pt->dct", points, velocity))
    centres = np.arange(SIDE) + 0.5
    across = np.exp(-((centres - x[..., None]) ** 2) / (2 * BLUR**2))
    down = np.exp(-((centres - y[..., None]) ** 2) / (2 * BLUR**2))
    down *= (speed * weights / (np.sqrt(2 * np.pi) * BLUR))[..., None]
    ink = np.matmul(down.transpose(0, 2, 1), across)
    return np.rint(255 * -np.expm1(-GAIN * ink)).reshape(len(points), -1) / 255
