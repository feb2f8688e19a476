"""The functions of ``import hesscomp as hc``: each takes what you have and calls the library."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from hesscomp import estimators
from hesscomp.analysis.reached import warn_of_inaccurate_pairs
from hesscomp.compression import compress as compress_operator
from hesscomp.compression.compress import RANK
from hesscomp.compression.formats import LOW_RANK, FormatOptions
from hesscomp.datasets import Dataset, load_dataset
from hesscomp.errors import InputError
from hesscomp.estimators import DiagonalEstimate, Estimate, SpectralDensity
from hesscomp.factors import Factor, is_trajectory, load_factor, load_trajectory, save_factor
from hesscomp.linear import LinearModel, load_model, save_model
from hesscomp.operators.matrix import as_operator, check_symmetric
from hesscomp.operators.operator import Operator
from hesscomp.options import described, refuse_unknown
from hesscomp.parallel.world import World
from hesscomp.problems.capabilities import KRONECKER_FACTORS
from hesscomp.storage.hdf5 import is_linear_model

if TYPE_CHECKING:
    from hesscomp.curvature.jacobian import Jacobian
    from hesscomp.factors import Kronecker, LowRank, Trajectory
    from hesscomp.optimizers.newton import NewtonResult
    from hesscomp.problems.problem import Problem

COMPRESS_OPTIONS = ["start", "format", "tree", "on_choice"]
COMPRESS_OPTIONS += [part.name for part in fields(FormatOptions) if part.name != "factor_format"]
EIGSH = {  # the words of `scipy.sparse.linalg.eigsh`
    "k": "give `rank`",
    "tol": "give `residual_tolerance`, and `max_columns` that suffice for it",
    "ncv": "give `max_basis`",
    "v0": "give `seed`, or `start` with a factor of a nearby matrix",
    "maxiter": "give `max_columns`",
    "M": "take hesscomp.compression.generalized_eigen(A, B, rank=...)",
    "sigma": "inner eigenvalues need solves, which hesscomp does not do",
}
USUAL = "give `data=(X, y)`"


def load_data(source: str | os.PathLike, world: World | None = None, **options) -> Dataset:
    """Load a data set by name or from a file; each rank keeps its own rows. Collective.

    Parameters
    ----------
    source : str or path
        "adult", "mnist-sample" (both packaged), "mnist" or "curves"; or a file of labelled rows:
        LIBSVM, CSV, HDF5, NPZ, NPY or IDX.
    world : World, optional
        All ranks of the job by default.
    **options
        `format`, `label`, `test`, `targets`, `dtype`, and of tables `weights`, `offset`, `missing`,
        `categories`, `ignore`, `reference`; `memory_map` for data larger than memory: see
        `hesscomp.datasets.load_dataset`.

    Examples
    --------
    >>> import hesscomp as hc
    >>> hc.load_data("adult").features
    109
    """
    return load_dataset(source, world or World(), **options)


def hessian(problem, loss=None, data=None, *, at=None, blocks=None, **options) -> Operator:
    """Return the Hessian of a mean loss at a point, without the ridge, as an operator.

    Parameters
    ----------
    problem : Problem or keras.Model
        A model needs `loss` and `data`.
    loss : str, Keras loss or callable, optional
        By default the one that the model was compiled with.
    data : (X, y) or Dataset, optional
        Each rank's own rows.
    at : (n,) array, str or path, optional
        The point: parameters, "zero", "initial", or a file (.npy, a factor, a checkpoint, Keras
        weights). By default the model's weights, and zero for logistic regression.
    blocks : str or list of str, optional
        Names of layers or parameter blocks that the matrix is restricted to.
    **options
        Of `KerasProblem`, with a model: `world`, `ridge`, `dtype`, `memory`, `engine`, `check`.

    Returns
    -------
    Operator
        n x n and symmetric. ``H @ V`` is one reduction over the ranks. Collective.

    Raises
    ------
    InputError
        For a model, a loss or data that cannot be used; see `KerasProblem`.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.hessian(problem).shape
    (109, 109)
    """
    from hesscomp.curvature.hessian import HessianOperator

    return _curvature(HessianOperator, problem, loss, data, at, blocks, options)


def ggn(problem, loss=None, data=None, *, at=None, blocks=None, **options) -> Operator:
    """Return the generalised Gauss-Newton matrix (Schraudolph 2002), J^T (d^2 l / df^2) J.

    Parameters are those of `hessian`. The matrix is positive semidefinite where the loss is convex
    in the model's outputs.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> hc.ggn(model, "mse", (np.eye(2), np.ones(2))).psd
    True
    """
    from hesscomp.curvature.gauss_newton import GaussNewtonOperator

    return _curvature(GaussNewtonOperator, problem, loss, data, at, blocks, options)


def fisher(
    problem, loss=None, data=None, *, at=None, blocks=None, samples=None, seed=0, **options
) -> Operator:
    """Return the Fisher matrix; see `hessian` for the other parameters.

    Parameters
    ----------
    samples : int, optional
        Draw this many targets for each row from the model (a Monte Carlo Fisher matrix) instead of
        the expectation over all targets.
    seed : int
        Of these targets; they do not depend on the number of ranks.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> hc.fisher(model, "squared-error", (np.eye(2), np.ones(2)), samples=5).shape
    (3, 3)
    """
    from hesscomp.curvature.gauss_newton import FisherOperator, MonteCarloFisherOperator

    if samples is None:
        return _curvature(FisherOperator, problem, loss, data, at, blocks, options)

    def drawn(problem, x):
        return MonteCarloFisherOperator(problem, x, samples, seed)

    return _curvature(drawn, problem, loss, data, at, blocks, options)


def empirical_fisher(problem, loss=None, data=None, *, at=None, blocks=None, **options) -> Operator:
    """Return the mean over rows of g_i g_i^T, g_i the row's gradient; parameters as `hessian`.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> matrix = hc.empirical_fisher(model, "mse", (np.eye(2), np.ones(2)))
    >>> hc.compress(matrix, rank=3).eigenvalues.shape  # of the two rows' gradients
    (3,)
    """
    from hesscomp.curvature.gauss_newton import EmpiricalFisherOperator

    return _curvature(EmpiricalFisherOperator, problem, loss, data, at, blocks, options)


def jacobian(problem, loss=None, data=None, *, at=None, **options) -> Jacobian:
    """Return the Jacobian of a network's outputs by its parameters; parameters as `hessian`.

    ``J @ V`` takes (n, k) to this rank's rows of outputs, and ``J.T @ U`` back, summed over ranks.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> J = hc.jacobian(model, "mse", (np.eye(2), np.ones(2)))
    >>> (J @ np.ones(3)).ravel()  # kernel and bias
    array([2., 2.])
    """
    from hesscomp.curvature.jacobian import Jacobian

    problem = as_problem(problem, loss, data, options)
    return Jacobian(problem, as_point(problem, at))


def kfac(
    problem,
    loss=None,
    data=None,
    *,
    at=None,
    statistic="type-2",
    samples=1,
    seed=0,
    corrected=False,
    **options,
) -> Kronecker:
    """Return K-FAC or E-KFAC: the Gauss-Newton or a Fisher matrix, a Kronecker product a layer.

    Parameters are those of `hessian`, and these. A layer's block is A x G, with A the second moment
    of its inputs (1 for the bias) and G that of gradients with respect to its outputs. It is the
    exact block for one linear layer and squared error, for one row, and where inputs and gradients
    are independent. The blocks are those of dense layers and of convolutions (of one or two axes,
    without groups). All other parameters (normalisation, embeddings, depthwise convolutions, those
    that several layers share) have the diagonal of the matrix; ``K.forms`` tells which do. Ridge
    and regularisers are left out.

    Parameters
    ----------
    statistic : {"type-2", "sampled", "empirical"}
        The gradients in G. "type-2": all columns of the root of the loss's second derivative, for
        the Gauss-Newton matrix, which is the Fisher matrix of the known losses. "sampled": of
        `samples` targets drawn from the model for each row. "empirical": of the data's targets.
    samples, seed : int
        With "sampled"; the targets do not depend on the number of ranks.
    corrected : bool
        E-KFAC: the same eigenvectors, and for eigenvalues the mean squares of the rows' gradients
        in their directions, which are the diagonal of the matrix in this basis.

    Returns
    -------
    Kronecker
        A factor: ``K @ V``, ``K.solve(B, shift)``, ``K.logdet(shift)``, ``K.diagonal()``,
        ``K.trace()``, ``K.preconditioner(shift)``, ``K.layer("dense")``, `save`. It holds no error
        estimate. Collective.

    Raises
    ------
    InputError
        Where no layer has Kronecker factors or a problem has none, and for a loss that is not
        convex (type-2) or is no likelihood (sampled).

    Notes
    -----
    A pass over the data, and one more each for a correction and for a diagonal; a row has as many
    gradients as the output has numbers (type-2), `samples` of them, or one (empirical). One
    reduction a pass: a^2 + d^2 words for a layer of a inputs and d outputs, a d for a correction.
    Rank 0 solves the eigenproblems, of order a and d. Memory: the same numbers, and at most a
    quarter of `memory` for a chunk of rows.

    A dense layer that a row passes at several places, and a convolution, are expanded: A is summed
    over the places, G is their mean. Martens and Grosse, "Optimizing neural networks with
    Kronecker-factored approximate curvature" (ICML 2015); Grosse and Martens, "A
    Kronecker-factored approximate Fisher matrix for convolution layers" (ICML 2016); George and
    others, "Fast approximate natural gradient descent in a Kronecker factored eigenbasis" (NeurIPS
    2018).

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="last")])
    >>> X, y = np.array([[1.0, 2.0], [3.0, 1.0]]), np.ones((2, 2))
    >>> K = hc.kfac(model, "mse", (X, y), dtype="float64")
    >>> K, K.forms["last"]
    (<kronecker factor: n 6, holds 1 Kronecker block, relative error not measured>, '3 x 2')
    >>> G = hc.ggn(model, "mse", (X, y), dtype="float64")  # one linear layer: K-FAC is exact
    >>> np.allclose(K.to_dense(), G.to_dense())
    True
    >>> np.allclose(G.shifted(0.1) @ K.solve(np.ones(6), shift=0.1), 1.0)
    True
    """
    problem = as_problem(problem, loss, data, options)
    problem.require(KRONECKER_FACTORS)
    return problem.kronecker(
        as_point(problem, at), statistic, samples=samples, seed=seed, corrected=corrected
    )


def per_example_gradients(
    problem, loss=None, data=None, *, at=None, rows=None, **options
) -> np.ndarray:
    """Return the gradient of each row's own loss, one below the other; parameters as `hessian`.

    Parameters
    ----------
    rows : slice or array of int, optional
        Which rows, by their numbers from 0 over all ranks (rank 0's come first); by default all.
        Every rank names the same ones.

    Returns
    -------
    (rows, n) float64 array
        The same on every rank, in the order of `rows`. Row i is the gradient of l_i, the loss of
        row i alone, without the ridge and the regularisers. Every row counts once, so the mean over
        all rows is the gradient of the mean loss. Collective.

    Raises
    ------
    InputError
        Where the array would take more than a quarter of a rank's free memory. Take fewer `rows`
        then, or ``problem.row_gradients(x)``, which yields each rank's own a few at a time.

    Notes
    -----
    About the cost of that many gradients of one row, vectorised, a few at a time as memory allows;
    (rows, n) words gathered.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.per_example_gradients(problem, rows=slice(5)).shape
    (5, 109)
    """
    from hesscomp.problems import per_example

    problem = as_problem(problem, loss, data, options)
    return per_example.per_example_gradients(problem, as_point(problem, at), rows)


def per_example_squared_norms(
    problem, loss=None, data=None, *, at=None, rows=None, **options
) -> np.ndarray:
    """Return the squared norm of each row's gradient; parameters as `per_example_gradients`.

    Returns
    -------
    (rows,) float64 array
        The same on every rank. Collective. It costs about one gradient of all rows for linear
        models and for networks of `Dense` layers, convolutions, batch and layer normalisation,
        where a norm follows from the layers' inputs and gradients (Goodfellow, "Efficient
        per-example gradient computations", 2015, and Bu, Mao and Xu, NeurIPS 2022). With other
        layers that have weights (embeddings, depthwise convolutions, recurrent and shared ones)
        the gradients of single rows are made, a few at a time.

    Examples
    --------
    >>> import hesscomp as hc
    >>> problem = hc.LogisticRegression(hc.load_data("adult"))
    >>> hc.per_example_squared_norms(problem).shape == (problem.rows,)
    True
    """
    from hesscomp.problems import per_example

    problem = as_problem(problem, loss, data, options)
    return per_example.per_example_squared_norms(problem, as_point(problem, at), rows)


def compress(
    matrix, rank: int | None = None, tolerance: float | None = None, *, which: str = "LM",
    psd: bool = False, **options,
) -> LowRank:  # fmt: skip
    """Compress a symmetric matrix or operator to a factor with an error certificate.

    Parameters
    ----------
    matrix : Operator, (n, n) array, SciPy sparse matrix or LinearOperator
        Symmetric, which is tried with two more products where hesscomp did not make it.
    rank : int, optional
        Eigenpairs wanted. Default: 40 (or n), unless a tolerance is given. With the formats "hbs"
        and "hodlr" the rank at each node of the tree.
    tolerance : float, optional
        Take the smallest rank with ||H - F|| <= tolerance ||H|| instead, both estimated.
    which : {"LM", "LA", "SA"}
        The eigenvalues: of largest magnitude, or one end of the spectrum, the largest ("LA") or the
        smallest ("SA", the most negative first). A factor of one end is no approximation of the
        matrix: its error tells what it leaves out, its residual norms how good the eigenpairs are,
        and a warning says where they have not converged. With a rank, not with a tolerance.
    psd : bool
        Of an array or a SciPy operator: it is positive semidefinite, which makes the default method
        cheaper. An `Operator` knows this itself.
    **options
        `format`: "low-rank" (by default); "hbs" or "hodlr" for matrices whose off-diagonal blocks
        have low rank in some `ordering` of the parameters; or "auto", which tries all on one
        sketch. With `ordering`, `tree`, `leaf_size` and `on_choice`:
        `hesscomp.compression.compress`.

        `method`, `oversample`, `power`, `seed` and others: `hesscomp.compression.compress`. For
        eigenvalues to a stated accuracy, as from `scipy.sparse.linalg.eigsh`, give
        ``residual_tolerance=1e-6`` (of the largest, the default), and more `max_columns` where a
        warning says that they did not suffice: by default the eigenvalues of a flat spectrum are
        low by some percent.

    Returns
    -------
    LowRank
        `eigenvalues`, `eigenvectors`, `certificate`; it multiplies, solves and is saved (`save`).
        With another format a `Factor` of that kind.

    Raises
    ------
    InputError
        For a matrix that is not symmetric, and for options out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> hc.compress(np.diag([3.0, -2.0, 1.0, 0.0]), rank=2).eigenvalues.round(6)
    array([ 3., -2.])
    >>> hc.compress(np.diag([3.0, -2.0, 1.0, 0.0]), rank=2, which="LA").eigenvalues.round(6)
    array([3., 1.])
    >>> x = np.linspace(0, 1, 500)
    >>> kernel = np.exp(-np.abs(x[:, None] - x) / 0.1)
    >>> hc.compress(kernel, tolerance=1e-6, format="auto").kind
    'hbs'
    """
    if rank is None and tolerance is None and options.get("format", LOW_RANK) == LOW_RANK:
        rank = RANK
    operator = as_operator(matrix, psd=psd)
    refuse_unknown(options, COMPRESS_OPTIONS, "compress", EIGSH)
    check_symmetric(operator)
    factor = compress_operator(operator, rank, tolerance, which=which, **options)
    if operator.world is None or operator.world.rank == 0:
        warn_of_inaccurate_pairs(factor)
    return factor


def trace(matrix, columns: int = 64, **options) -> Estimate:
    """Return the trace with its standard error; exact of a factor.

    `columns` products are spent at most (`hesscomp.estimators.trace`).

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> hc.trace(np.diag([3.0, -2.0, 1.0, 0.0])).value
    2.0
    """
    _refuse_others(options, estimators.trace, "trace")
    if isinstance(matrix, Factor):
        return Estimate.exactly(matrix.trace(), 0)
    return estimators.trace(as_operator(matrix), columns, **options)


def diagonal(matrix, columns: int = 64, **options) -> DiagonalEstimate:
    """Return the diagonal with standard errors; `columns` products are spent at most.

    See `hesscomp.estimators.diagonal`, and ``factor.diagonal()`` of a factor.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> hc.diagonal(np.diag([3.0, -2.0, 1.0])).values
    array([ 3., -2.,  1.])
    """
    _refuse_others(options, estimators.diagonal, "diagonal")
    return estimators.diagonal(as_operator(matrix), columns, **options)


def logdet(matrix, shift: float = 0.0, **options) -> Estimate:
    """Return log det(H + shift I), which must be positive definite; exact of a factor.

    See `hesscomp.estimators.logdet` for `probes`, `steps` and `seed`.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> round(hc.logdet(np.diag([3.0, 2.0, 1.0]), shift=1.0).value, 6)  # log(4 * 3 * 2)
    3.178054
    """
    _refuse_others(options, estimators.logdet, "logdet")
    if isinstance(matrix, Factor):
        counts = matrix.inertia(shift)
        if counts.negative or counts.zero:
            raise InputError(
                f"the factor plus a shift of {shift:g} is not positive definite; take a larger "
                "shift, or matrix.logdet(shift), which gives the sign too"
            )
        return Estimate.exactly(matrix.logdet(shift).logabsdet, 0)
    return estimators.logdet(as_operator(matrix), shift=shift, **options)


def norm(matrix, order: str | int = "fro", **options) -> float:
    """Return an estimate of the Frobenius ("fro") or the spectral norm (2).

    `hesscomp.estimators.frobenius_norm` and `spectral_norm` give errors and bounds too.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> round(hc.norm(np.diag([4.0, -3.0])), 6), round(hc.norm(np.diag([4.0, -3.0]), 2), 6)
    (5.0, 4.0)
    """
    norms: dict[Any, Callable] = {"fro": estimators.frobenius_norm, 2: estimators.spectral_norm}
    if order not in norms:
        raise InputError(f'norm takes the order "fro" or 2, not {order}')
    estimator = norms[order]
    _refuse_others(options, estimator, f"norm of order {order}")
    return estimator(as_operator(matrix), **options).value


def density(matrix, **options) -> SpectralDensity:
    """Return the density of all eigenvalues by stochastic Lanczos quadrature.

    Costs `probes` (10 by default) times `steps` (80) product columns, of random vectors by `seed`
    (Ubaru, Chen and Saad 2017; `hesscomp.estimators.spectral_quadrature`). `plot` draws it.

    Examples
    --------
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> found = hc.density(np.diag(np.linspace(0, 1, 200)), probes=5, steps=20)
    >>> found.sides[0][0] >= 0, found.density.shape == found.points.shape
    (True, True)
    """
    _refuse_others(options, estimators.spectral_quadrature, "density")
    return estimators.spectral_quadrature(as_operator(matrix), **options).density()


def _refuse_others(options: dict[str, Any], function: Callable, name: str) -> None:
    """Refuse options that are no parameters of a function, which users call by a `name`."""
    refuse_unknown(options, list(signature(function).parameters)[1:], name)


def newton(
    problem, x0: np.ndarray | None = None, *, ridge: float | None = None, world=None,
    intercept: bool = False, weights=None, offsets=None, family: str = "logistic", **options,
) -> NewtonResult:  # fmt: skip
    """Fit logistic regression, or minimise another convex problem, by Newton's method.

    Parameters
    ----------
    problem : Problem, Dataset, (X, y) or str
        Data, or the name or file of data, stand for logistic regression on them, or another
        `family`.
    x0 : (n,) array, optional
        The start; zero by default.
    ridge : float, optional
        With data: the regularisation, 1e-3 by default; it does not apply to the intercept.
    intercept : bool
        With data: fit a constant beside the columns, which becomes the last coefficient.
    weights, offsets : (rows,) array or str, optional
        With data: how much each of this rank's rows counts, and what is added to its linear
        predictor; with a file, the names of their columns.
    family : {"logistic", "least-squares", "poisson", "gamma", "tweedie", "tweedie:POWER"}
        With data: the model; `fit_linear` also computes its statistics.
    **options
        `solver`, `tolerance`, `max_iterations`, `rank`, `preconditioner` (a format, or a factor
        that serves first), `ordering` (see `NewtonOptions`), `factor_options` (a dict of options
        of `compress` for the factor), and `on_iteration`, `folder`, `save_every` (see
        `hesscomp.optimizers.newton.newton`).

    Returns
    -------
    NewtonResult
        `x`, `objective`, `gradient_norm`, `converged`, `history`. Collective.

    Examples
    --------
    >>> import hesscomp as hc
    >>> fit = hc.newton("adult", ridge=1e-3)
    >>> fit.converged, round(fit.objective, 6)
    (True, 0.326523)
    """
    from hesscomp.optimizers.newton import NewtonOptions
    from hesscomp.optimizers.newton import newton as minimise
    from hesscomp.problems.problem import Problem

    if not isinstance(problem, Problem):
        from hesscomp.api.linear import linear_problem
        from hesscomp.problems.catalogue import RIDGE

        problem, _ = linear_problem(
            problem, family, world, weights, offsets, intercept=intercept,
            ridge=RIDGE if ridge is None else ridge,
        )  # fmt: skip
    elif ridge is not None or intercept or weights is not None or offsets is not None:
        raise InputError(
            "`ridge`, `intercept`, `weights` and `offsets` go with data; a problem has its own"
        )
    passed = {
        name: options.pop(name)
        for name in ("on_iteration", "folder", "save_every")
        if name in options
    }
    known = [each.name for each in described(NewtonOptions, told=False)]
    refuse_unknown(options, known, "newton")
    fit = minimise(problem, x0, NewtonOptions(**options), **passed)
    problem.warn_without_minimum(fit.x)
    return fit


def save(factor: Factor | LinearModel, path: str | os.PathLike) -> None:
    """Write a factor, or a linear model, to an HDF5 file, whole or not at all. All ranks call it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> path = os.path.join(tempfile.mkdtemp(), "factor.h5")
    >>> hc.save(hc.compress(np.diag([3.0, 2.0, 1.0]), rank=2), path)
    >>> hc.load(path).eigenvalues.round(6)
    array([3., 2.])
    """
    if not isinstance(factor, LinearModel):
        _check_factor(factor, "save")
        save_factor(factor, path)
        return
    world = World.of_job()
    with world.phase(f"writing {path}"):
        if world.rank == 0:
            save_model(factor, path)


def load(path: str | os.PathLike) -> Factor | Trajectory | LinearModel:
    """Read a factor, a trajectory of factors or a linear model from its HDF5 file.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of another kind; the message says what is wrong in it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> path = os.path.join(tempfile.mkdtemp(), "factor.h5")
    >>> hc.save(hc.compress(np.diag([3.0, 2.0, 1.0]), rank=2), path)
    >>> hc.load(path)  # doctest: +ELLIPSIS
    <low-rank factor: n 3, holds rank 2, relative error 0.27 (...)>
    """
    if is_linear_model(path):
        return load_model(path)
    return load_trajectory(path) if is_trajectory(path) else load_factor(path)


def _check_factor(factor, function: str) -> None:
    if not isinstance(factor, Factor):
        raise InputError(
            f"{function} takes what compress or fit_linear gives, not {type(factor).__name__}"
        )


def _curvature(kind: Callable, problem, loss, data, at, blocks, options: dict) -> Operator:
    """Make an operator of a kind from what the face's functions were given."""
    problem = as_problem(problem, loss, data, options)
    operator = kind(problem, as_point(problem, at))
    if blocks is None:
        return operator
    from hesscomp.curvature.restriction import Restricted

    return Restricted(operator, [blocks] if isinstance(blocks, str) else list(blocks))


def keras_options() -> list[str]:
    """Return the names of the options that go with a model."""
    from hesscomp.problems.keras import KerasProblem

    return list(signature(KerasProblem).parameters)[3:]  # after the model, the loss and the data


def as_problem(problem, loss, data, options: dict[str, Any], name: str = "hessian") -> Problem:
    """Return a problem as it is, or the one of a model, its loss and its data.

    `name` is the function that was called, for messages.
    """
    from hesscomp.problems.problem import Problem

    if isinstance(problem, Problem):
        if loss is not None or data is not None or options:
            raise InputError(
                "a problem has its own loss, data and options; pass them where it is made, and a "
                "point as at=x"
            )
        return problem
    from hesscomp.problems.keras import KerasProblem

    model = problem
    if loss is None and (loss := getattr(model, "loss", None)) is not None:
        from hesscomp.curvature.keras_internals import compiled_loss_weights

        options = {"loss_weights": compiled_loss_weights(model), **options}
    if isinstance(model, str | os.PathLike):
        raise InputError(
            f"{os.fspath(model)}: pass the model itself, keras.models.load_model of this file"
        )
    refuse_unknown(options, keras_options(), "the problem of a model", {"x": USUAL, "y": USUAL})
    if loss is None or data is None:
        call = "model, optimizer, loss" if name == "train" else "model, loss"
        raise InputError(
            f"a model needs its loss and data: {name}({call}, data=(X, y)), the loss only where it "
            "is not the one that the model was compiled with; or pass a problem"
        )
    return KerasProblem(model, loss, data, **options)


def as_point(problem: Problem, at) -> np.ndarray:
    """Return a point of a problem: an array, or what a name or a file stands for."""
    if at is None or isinstance(at, str | os.PathLike):
        from hesscomp.workflows.curvature import known_point

        return known_point(None if at is None else os.fspath(at), problem)
    return problem.check_point(at)


def report(result, path: str | os.PathLike) -> None:
    """Write the page about a factor or a linear model: one HTML file, whole or not at all.

    Parameters
    ----------
    result : Factor or LinearModel
    path : str or path

    Raises
    ------
    InputError
        For what is neither.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import hesscomp as hc
    >>> path = os.path.join(tempfile.mkdtemp(), "factor.html")
    >>> hc.report(hc.compress(np.diag([3.0, 2.0, 1.0]), rank=2), path)
    >>> os.path.getsize(path) > 10_000
    True
    """
    from hesscomp.analysis.report import page, write_page

    if isinstance(result, LinearModel):
        from hesscomp.analysis.model_page import model_page

        write_page(model_page(result), path)
    else:
        _check_factor(result, "report")
        write_page(page(result), path)
