"""A Gaussian that stays where the spectrum is: reflected at the ends of an interval."""

import numpy as np

REACH = 4.0  # intervals of this many standard deviations see each end in one reflection


def reflected_gaussian(
    points: np.ndarray, centres: np.ndarray, width: float, low: float, high: float
) -> np.ndarray:
    """Return Gaussians around centres in [low, high], reflected at both ends as by mirrors.

    Each integrates to 1 over the interval and is 0 outside. The width is at most the interval's
    length, from where on the kernel is flat to 2%.

    Parameters
    ----------
    points, centres : arrays
        Broadcast against each other.
    width : float
        Standard deviation.
    low, high : float
        low < high.
    """
    length = high - low
    width = min(width, length)
    total = np.zeros(np.broadcast_shapes(np.shape(points), np.shape(centres)))
    images = int(np.ceil(REACH * width / length))
    for turn in range(-images, images + 1):
        for mirrored in (centres, 2 * low - centres):
            total += np.exp(-0.5 * ((points - mirrored - 2 * turn * length) / width) ** 2)
    inside = (points >= low) & (points <= high)
    return np.where(inside, total, 0.0) / (width * np.sqrt(2 * np.pi))
