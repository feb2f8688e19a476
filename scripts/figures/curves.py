"""Draw docs/curves.png: the first 48 training images of CURVES, row by row."""

from pathlib import Path

import matplotlib.image
import numpy as np

from hesscomp.datasets import load_dataset
from hesscomp.parallel.world import World

ROWS, COLUMNS, SIDE, GAP, ZOOM = 4, 12, 28, 2, 2
OUT = Path(__file__).resolve().parents[2] / "docs" / "curves.png"

images = load_dataset("curves", World.serial()).train.X[: ROWS * COLUMNS]
grid = np.pad(
    images.reshape(ROWS, COLUMNS, SIDE, SIDE),
    ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP)),
    constant_values=0.5,
)
picture = grid.swapaxes(1, 2).reshape(ROWS * (SIDE + 2 * GAP), -1)
picture = 1 - picture.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
matplotlib.image.imsave(OUT, picture, cmap="gray", vmin=0, vmax=1)
print(f"wrote {OUT}")
