"""What a problem says of single rows: terms of their outputs, and derivatives by their data."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OutputTerms:
    """Some rows' C outputs by the parameters, and the rows' losses by the outputs.

    With r rows; l is a row's loss and f its output. A row's gradient is jacobian^T slopes, and its
    Gauss-Newton matrix jacobian^T curvature jacobian.

    Attributes
    ----------
    jacobian : (r, C, n) array
        df/dx.
    slopes : (r, C) array
        dl/df.
    curvature : (r, C, C) array
        d^2 l/df^2.
    pearson : (r,) array or None
        Pearson's statistic of each row, where slopes^T curvature^-1 slopes is another number.
    """

    jacobian: np.ndarray
    slopes: np.ndarray
    curvature: np.ndarray
    pearson: np.ndarray | None = None


@dataclass(frozen=True)
class DataSlopes:
    """Derivatives of g_i . v by the data, for each row's gradient g_i and k columns v.

    Attributes
    ----------
    labels : (rows here, ..., k) array, or None
        By each number of the row's target; of a class by the probability of each class. None where
        targets are whole numbers whose loss is no cross-entropy.
    shifts, scales : (features, k) arrays, or None
        Summed over the rows of all ranks: by a number that is added to a column of the inputs, and
        by a factor (at 1) that multiplies it. None where inputs are whole numbers.
    """

    labels: np.ndarray | None
    shifts: np.ndarray | None
    scales: np.ndarray | None


@dataclass(frozen=True)
class RowPlaces:
    """Which point each row of a problem with groups of points is of; r rows of this rank.

    Attributes
    ----------
    group : (r,) array of int
        The row's group, by its place in the problem's `groups`.
    point : (r,) array of int
        The row's point, by its place among those of its group.
    residuals : (r,) array of int
        How many numbers of the row's output are its group's; those after them are zero.
    """

    group: np.ndarray
    point: np.ndarray
    residuals: np.ndarray
