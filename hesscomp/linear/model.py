"""A fitted generalised linear model: what people take home."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse
import scipy.special
from markupsafe import escape

from hesscomp.datasets.dataset import as_matrix
from hesscomp.datasets.encoding import NO_VALUE, Encoding
from hesscomp.datasets.tables import encoded, is_table
from hesscomp.datasets.targets import CLASSES
from hesscomp.errors import InputError, some
from hesscomp.linear.covariance import CHUNK_BYTES, FactoredCovariance
from hesscomp.linear.families import known_family

SHOWN = 60  # coefficients in a printed table
# A level's coefficient that is this large, with a standard error that is so many times as large,
# is on its way to infinity.
ENDLESS, UNCERTAIN = 10.0, 5.0


@dataclass(frozen=True)
class Predictions:
    """The mean of each row's target, with an interval; NaN where the model has no covariance.

    Of several classes the probability of each, with an interval of its own: (rows, K).
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def blank(self) -> np.ndarray:
        """Which rows have no prediction: (rows,) booleans."""
        return _blank(self.mean)


def _blank(mean: np.ndarray) -> np.ndarray:
    return np.isnan(mean.reshape(len(mean), -1)).any(axis=1)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Coefficients of a generalised linear model, with their statistics.

    Attributes
    ----------
    family : str
        Its name in `hesscomp.linear.families`, such as "logistic" or "tweedie:1.7".
    coefficients : (n,) array
        The intercept, where there is one, is the last.
    names : tuple of str
        Of the coefficients.
    intercept : bool
    standard_errors : (n,) array
        NaN where they were not computed.
    covariance : (n, n) array or None
        Of the coefficients.
    factored : FactoredCovariance or None
        Of more than 4,000 coefficients, in place of it: an approximation, with its stated error.
    covariance_kind : str
        "observed" (the inverse of the observed information), "robust" (the sandwich HC0) or
        "none".
    residual : float
        The largest relative residual of the linear systems that standard errors come from; 0 for
        a Cholesky factorisation.
    rows, total : int, float
        Training rows, and the sum of their weights.
    ridge : float
    scale : float
        The dispersion: Pearson's statistic over the degrees of freedom, of least squares the
        variance of residuals; 1 for families that have none.
    log_likelihood, deviance : float
    effective_parameters : float
        n, or with a ridge trace((H + R)^-1 H); NaN where it was not computed.
    converged : bool
        Whether the fit reached its tolerance.
    gradient_norm : float
    has_offsets : bool
        Whether the training rows had offsets, so that rows to predict need them.
    classes : tuple of str
        What the labels were called: of logistic regression those of -1 and +1, of softmax
        regression those of all classes.
    reference : bool
        Of softmax regression: whether the first class has coefficients 0.
    label_name : str
    encoding : Encoding or None
        How the columns of a table become features.
    index_base : int or None
        Of training rows from a LIBSVM file, the index of the first feature.
    dataset, fingerprint : str
        Of the training data.
    standardized : bool
        Whether the fit was one of standardised columns, so that the ridge was on their
        coefficients. All numbers here are those of the columns as they are.
    """

    family: str
    coefficients: np.ndarray
    names: tuple[str, ...]
    intercept: bool
    standard_errors: np.ndarray
    covariance: np.ndarray | None = field(repr=False, default=None)
    factored: FactoredCovariance | None = field(repr=False, default=None)
    covariance_kind: str = "none"
    residual: float = 0.0
    rows: int = 0
    total: float = np.nan
    ridge: float = 0.0
    scale: float = 1.0
    log_likelihood: float = np.nan
    deviance: float = np.nan
    effective_parameters: float = np.nan
    converged: bool = True
    gradient_norm: float = np.nan
    has_offsets: bool = False
    classes: tuple[str, ...] = ()
    reference: bool = False
    label_name: str = ""
    encoding: Encoding | None = None
    index_base: int | None = None
    dataset: str = ""
    fingerprint: str = ""
    standardized: bool = False

    @property
    def features(self) -> int:
        """The number of columns of a row."""
        if not self.several:
            return len(self.coefficients) - self.intercept
        ones = self.intercept * (len(self.classes) - 1)
        return (len(self.coefficients) - ones) // (len(self.classes) - self.reference)

    @property
    def several(self) -> bool:
        """Whether rows have a predictor for each class."""
        return known_family(self.family).targets == CLASSES

    @property
    def pinned(self) -> np.ndarray:
        """Of softmax regression, which entries of `table` are no coefficients."""
        return pinned_entries(self.features, len(self.classes), self.intercept, self.reference)

    @cached_property
    def table(self) -> np.ndarray:
        """Of softmax regression the coefficients, (features, K), with a last row of intercepts."""
        table = np.zeros(self.pinned.shape)
        table[~self.pinned] = self.coefficients
        return table

    @property
    def effect(self) -> str:
        """What exp of a coefficient is called; empty where it means nothing, as of scores."""
        scores = self.several and not self.reference
        return "" if scores else known_family(self.family).effect

    @property
    def has_errors(self) -> bool:
        """Whether any coefficient has a standard error."""
        return bool(np.isfinite(self.standard_errors).any())

    @property
    def has_covariance(self) -> bool:
        """Whether the coefficients have a covariance, or an approximation of it."""
        return self.covariance is not None or self.factored is not None

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 effective_parameters - 2 log_likelihood."""
        return 2 * self.effective_parameters - 2 * self.log_likelihood

    @cached_property
    def z(self) -> np.ndarray:
        """The coefficients by their standard errors."""
        return self.coefficients / self.standard_errors

    @cached_property
    def p_values(self) -> np.ndarray:
        """Two-sided, by the normal distribution."""
        return 2 * scipy.special.ndtr(-np.abs(self.z))

    def intervals(self, level: float = 0.95) -> np.ndarray:
        """Return the confidence intervals of the coefficients: (n, 2)."""
        reach = quantile(level) * self.standard_errors
        return np.column_stack([self.coefficients - reach, self.coefficients + reach])

    def effects(self, level: float = 0.95) -> np.ndarray:
        """Return exp of the coefficients and of their intervals: (n, 3).

        They are odds ratios of logistic regression, rate ratios of Poisson regression and ratios
        of means of gamma and tweedie.
        """
        if not self.effect:
            raise InputError(f"{self.family}: exp of a coefficient means nothing there")
        return np.exp(np.column_stack([self.coefficients, self.intervals(level)]))

    def predict(self, X, offsets=None, level: float = 0.95) -> Predictions:
        """Return the means of rows, of logistic regression the probability of its second class.

        Of softmax regression the probability of each class, (rows, K).

        Parameters
        ----------
        X : (rows, features) array, DataFrame or SciPy sparse matrix
            Encoded as the training rows were. Where those came from a CSV file, a DataFrame with
            its columns, in any order and beside others, is encoded here.
        offsets : (rows,) array, optional
            Needed where the training rows had offsets.
        level : float
            Of the interval, which is that of the linear predictor, mapped to the mean. Of softmax
            regression it is that of log(p / (1 - p)) by the delta method, mapped to p, for each
            class by itself.

        Raises
        ------
        InputError
            For rows that do not fit, for values that the training rows do not have, and where
            offsets are missing.
        """
        X = self._features_of(X)
        if self.has_offsets and offsets is None:
            raise InputError(
                "the training rows had offsets; give those of these rows too, as `offsets` or in "
                "the shell as --offset NAME (zeros predict the mean at an offset of 0, such as the "
                "rate for an exposure of 1)"
            )
        if len(X.shape) != 2 or X.shape[1] != self.features:
            raise InputError(f"rows of shape {X.shape}; the model takes {self.features} columns")
        if self.several:
            table = self.table
            T = np.asarray(X @ table[: self.features]) + table[self.features :].sum(axis=0)
            logits, errors = self._class_logits(X, T)
            reach = quantile(level) * errors
            low, high = scipy.special.expit(logits - reach), scipy.special.expit(logits + reach)
            return Predictions(known_family(self.family).mean(T), low, high)
        t = X @ self.coefficients[: self.features] + self.coefficients[self.features :].sum()
        t = t if offsets is None else t + offsets
        reach = quantile(level) * self._errors(X)
        return Predictions(*map(known_family(self.family).mean, (t, t - reach, t + reach)))

    def _features_of(self, X):
        """Return rows as a matrix of the model's features."""
        if is_table(X) and X.ndim == 2 and self.encoding is not None:
            titles = list(map(str, X.columns))
            if titles != list(self.encoding.names):
                return encoded(X, self.encoding, "the rows")
        return as_matrix(X, "the rows")

    def likeliest(self, mean: np.ndarray) -> np.ndarray:
        """Return the class of each row, by its predicted mean: (rows,) texts, empty for NaN."""
        at = mean.argmax(axis=1) if self.several else (mean > 0.5).astype(int)
        return np.where(_blank(mean), "", np.array(self.classes)[at])

    def _errors(self, X) -> np.ndarray:
        """Return the standard errors of the rows' linear predictors."""
        C, n = self.covariance, self.features
        if self.factored is not None:
            return np.sqrt(self.factored.of_rows(X, self.intercept))
        if C is None:
            return np.full(X.shape[0], np.nan)
        variances = np.empty(X.shape[0])
        step = max(CHUNK_BYTES // (8 * max(n, 1)), 1)
        for start in range(0, len(variances), step):
            rows = X[start : start + step]
            form = np.asarray((rows * np.asarray(rows @ C[:n, :n])).sum(axis=1)).reshape(-1)
            if self.intercept:
                form = form + 2 * (rows @ C[:n, n]) + C[n, n]
            variances[start : start + step] = form
        return np.sqrt(np.maximum(variances, 0))

    def _class_logits(self, X, T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log(p / (1 - p)) of each row's classes, and its standard error: (rows, K) each.

        This logit is the class's score minus the log of the sum of exp of the other scores. Its
        gradient by the scores is 1 at the class and minus the softmax of the others there, so that
        nothing is divided by a p (1 - p) that may round to 0. Each row takes n^2 operations for n
        coefficients, beside K^3.
        """
        logits, errors = np.full(T.shape, np.nan), np.full(T.shape, np.nan)
        if not self.has_covariance:
            return logits, errors
        K, itself = T.shape[1], np.eye(T.shape[1], dtype=bool)
        step = max(CHUNK_BYTES // (8 * (2 * self.pinned.size + 4 * K**2)), 1)
        for start in range(0, len(T), step):
            part = slice(start, start + step)
            others = np.where(itself, -np.inf, T[part, None])
            logits[part] = T[part] - scipy.special.logsumexp(others, axis=-1)
            slopes = itself - scipy.special.softmax(others, axis=-1)
            variances = (slopes @ self._score_covariances(X[part]) * slopes).sum(axis=-1)
            errors[part] = np.sqrt(np.maximum(variances, 0))
        return logits, errors

    def _score_covariances(self, rows) -> np.ndarray:
        """Return the covariance of each row's scores, (rows, K, K); 0 for a reference class."""
        C, pinned = self.covariance, self.pinned
        sparse, ones = scipy.sparse.issparse(rows), np.ones((rows.shape[0], 1))
        if self.intercept and sparse:
            rows = scipy.sparse.hstack([rows, ones], format="csr")
        elif self.intercept:
            rows = np.column_stack([rows, ones])
        places = np.zeros(pinned.shape, int)
        places[~pinned] = np.arange(np.count_nonzero(~pinned))
        if self.factored is not None:
            return self.factored.of_classes(rows, pinned, places)
        assert C is not None  # else there is nothing to ask for
        dense = rows.toarray() if sparse else rows
        found = np.zeros((rows.shape[0], pinned.shape[1], pinned.shape[1]))
        for k in np.flatnonzero(~pinned.all(axis=0)):
            free = ~pinned[:, k]
            block = np.zeros((np.count_nonzero(free), *pinned.shape))
            block[:, ~pinned] = C[places[free, k]]
            later = block[:, :, k:]  # the covariance is symmetric
            product = rows[:, free] @ later.reshape(len(block), -1)
            found[:, k, k:] = (dense[:, None] @ product.reshape(-1, *later.shape[1:]))[:, 0]
            found[:, k:, k] = found[:, k, k:]
        return found

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return (
            f"<{self.family} model: {len(self.names):,} coefficients, {self.rows:,} rows, deviance "
            f"{self.deviance:.6g}>"
        )

    def _repr_html_(self) -> str:
        head, *rows = self.cells()
        made = "".join(f"<th>{escape(title)}</th>" for title in head)
        for name, *numbers in rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in numbers)
            made += f"</tr><tr><th>{escape(name)}</th>{cells}"
        notes = "<br>".join(map(escape, self.notes()))
        return f"<table><tr>{made}</tr></table><p>{notes}</p>"

    def summary(self, level: float = 0.95, shown: int = SHOWN) -> str:
        """Return the table of coefficients, with what its numbers mean."""
        lines = self.cells(level, shown)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        if len(self.names) > shown:
            table.append(f"... {len(self.names) - shown} more")
        return "\n".join([*table, *self.notes()])

    def cells(self, level: float = 0.95, shown: int = SHOWN) -> list[list[str]]:
        """Return the table of coefficients as texts, row by row; the first row has the titles."""
        effect = self.effect
        intervals, percent = self.intervals(level), f"{100 * level:g}%"
        titles = ["", "coefficient", "std. error", "z", "p", f"[{percent}", "interval]"]
        lines = [[*titles, *([effect] if effect else [])]]
        with np.errstate(over="ignore"):
            ratios = np.exp(self.coefficients)
        for i in range(min(len(self.names), shown)):
            numbers = self.coefficients[i], self.standard_errors[i], self.z[i]
            line = [self.names[i][:40], *(f"{number:.6g}" for number in numbers)]
            line += [f"{self.p_values[i]:.3g}", *(f"{end:.6g}" for end in intervals[i])]
            lines.append([*line, *([f"{ratios[i]:.6g}"] if effect else [])])
        return lines

    def notes(self) -> list[str]:
        """Return what the numbers mean, in sentences."""
        weighted = "" if self.total == self.rows else f", of total weight {self.total:.6g}"
        aic = f"AIC {self.aic:.8g}" if np.isfinite(self.aic) else "AIC not known"
        if np.isfinite(self.effective_parameters) and self.ridge:
            aic += f" with {self.effective_parameters:.5g} effective parameters"
        told = [
            f"{self.rows} rows{weighted}; log likelihood {self.log_likelihood:.8g}, deviance "
            f"{self.deviance:.8g}, {aic}"
        ]
        if self.scale != 1:
            known = np.isfinite(self.scale)
            told[0] += f", dispersion {self.scale:.6g}" if known else ", dispersion not known"
        if self.several:
            first = self.classes[0]
            told.append(
                f"The coefficients are of the log odds of each class against {first!r}."
                if self.reference
                else f"The coefficients are of the classes' scores, which only count by their "
                f"differences; the intercept of {first!r} is 0. z and p are of scores, not of log "
                "odds; fit with ridge 0 for those."
            )
        elif self.classes:
            told.append(f"The coefficients are of the log odds of {self.classes[-1]!r}.")
        told += self._levels_left_out()
        weighs = self.total != self.rows
        kinds = {
            "observed": "Standard errors are from the observed information"
            + ", where a row of weight w counts as w rows" * weighs,
            "robust": "Standard errors are robust (the sandwich HC0, rows independent"
            + ", each one observation whatever its weight" * weighs
            + ")",
            "none": "Standard errors were not computed",
        }
        exact = f", to a relative residual of {self.residual:.1e}" if self.residual else ""
        told.append(f"{kinds[self.covariance_kind]}{exact if self.factored is None else ''}.")
        if (factored := self.factored) is not None:
            apart = ""
            if np.isfinite(factored.intercept_error):
                apart = (
                    f" ({self.names[-1]}, also solved for: {100 * factored.intercept_error:.2g}%)"
                )
            told.append(
                f"They come from a factor of rank {factored.rank} and a diagonal, and so do "
                f"intervals of predictions; {len(factored.checked)} were also solved for{exact}. "
                f"The factor's differ from these by at most {100 * factored.error:.2g}%{apart}, "
                "and others may by more."
            )
        missing = int(np.count_nonzero(np.isnan(self.standard_errors)))
        if missing and self.covariance_kind != "none":
            told.append(
                f"{missing} coefficients have none: {len(self.names)} are too many for the dense "
                f"covariance, and each{' robust one' * (self.covariance_kind == 'robust')} takes a "
                "linear system of its own; name those you need."
            )
        on = " on the coefficients of standardised columns" * self.standardized
        if self.ridge and self.covariance_kind != "none":
            told.append(
                f"With the ridge {self.ridge:g}{on} coefficients are drawn to 0, and this bias is "
                "not in the standard errors"
                + (
                    f": they are the deviations of the posterior under a normal prior{on} of "
                    f"variance {self.scale / (self.total * self.ridge):.4g}; intervals and "
                    "p-values are not those of the model without ridge."
                    if self.covariance_kind == "observed"
                    else "; intervals and p-values are those of the penalised coefficients."
                )
            )
        if endless := self._endless():
            told.append(
                f"{some(endless)}: probably without a finite estimate, as where all rows of a "
                "level have the same target; set a ridge, or join levels."
            )
        if not self.converged:
            told.append("The fit did not converge; none of these numbers is final.")
        return told

    def _levels_left_out(self) -> list[str]:
        """Say which levels are references, and what a missing number counts as."""
        columns = () if self.encoding is None else self.encoding.columns
        left = {} if self.encoding is None else self.encoding.references
        told = []
        if left:
            listed = ", ".join(f"{name}: {level}" for name, level in left.items())
            told.append(
                f"Reference levels, without a coefficient of their own: {listed}. Other levels are "
                "compared with them."
            )
        if gaps := [c.name for c in columns if c.missing and c.levels is None]:
            told.append(
                f"A missing number counts as 0, beside its coefficient NAME={NO_VALUE}: "
                f"{', '.join(gaps)}."
            )
        return told

    def _endless(self) -> list[str]:
        """Return the names of levels whose coefficients probably have no finite estimate."""
        if self.encoding is None or self.ridge or self.scale != 1:
            return []
        levels = {f for c in self.encoding.columns for f in c.features if f != c.name}
        b, errors = np.abs(self.coefficients), self.standard_errors
        far = np.flatnonzero((b > ENDLESS) & (errors > UNCERTAIN * b))
        names = [self.names[i] for i in far]
        return [n for n in names if n in levels or n.partition(": ")[2] in levels]


def pinned_entries(features: int, classes: int, intercept: bool, reference: bool) -> np.ndarray:
    """Return which entries of a table of scores' coefficients are 0, (features + intercept, K).

    Scores are determined up to a common shift: the first intercept is 0, and so are all
    coefficients of the first class where that is the reference.
    """
    pinned = np.zeros((features + intercept, classes), bool)
    pinned[:, 0] = reference
    pinned[features:, 0] = True
    return pinned


def quantile(level: float) -> float:
    """Return how many standard errors an interval of a confidence level reaches to each side."""
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must be above 0 and below 1, not {level}")
    return float(scipy.special.ndtri((1 + level) / 2))
