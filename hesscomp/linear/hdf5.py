"""The file of a fitted linear model: HDF5 that h5py alone reads (docs/factor-file.md)."""

import os
from datetime import UTC, datetime

import h5py
import numpy as np

from hesscomp.datasets.encoding import Column, Encoding
from hesscomp.errors import InputError, one_line
from hesscomp.linear.covariance import FactoredCovariance
from hesscomp.linear.families import known_family
from hesscomp.linear.model import LinearModel
from hesscomp.storage import hdf5
from hesscomp.storage.files import atomic_path
from hesscomp.storage.hdf5 import LINEAR_MODEL, CheckedFile, finite

VERSION = 1
# Truths that files of before do not hold: False.
OPTIONAL = ("has_offsets", "reference", "standardized")
TEXT = h5py.string_dtype("utf-8")
FACTORED = {  # data sets of the group, and what they are
    "diagonal": "d of (diag(d) + U diag(w) U^T)^-1, the approximate covariance of coefficients",
    "weights": "w, of the columns of U",
    "vectors": "U, a row for each coefficient",
    "checked": "places of the coefficients whose standard errors are from linear systems",
}
ATTRIBUTES = {  # of the root, by the field's type
    str: ("family", "covariance_kind", "label_name", "dataset", "fingerprint"),
    bool: ("intercept", "converged"),
    int: ("rows",),
    float: (
        "residual", "total", "ridge", "scale", "log_likelihood", "deviance",
        "effective_parameters", "gradient_norm",
    ),
}  # fmt: skip


def save_model(model: LinearModel, path: str | os.PathLike) -> None:
    """Write a model to an HDF5 file, whole or not at all."""
    with atomic_path(path) as temporary, hdf5.new_file(temporary) as file:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        hdf5.write_header(file, LINEAR_MODEL, VERSION, created=created)
        for kind, names in ATTRIBUTES.items():
            for name in names:
                value = getattr(model, name)
                file.attrs[name] = np.int64(value) if kind is int else kind(value)
        file.attrs["aic"] = float(model.aic)
        if model.index_base is not None:
            file.attrs["index_base"] = np.int64(model.index_base)
        for name in OPTIONAL:
            file.attrs[name] = bool(getattr(model, name))
        file["coefficients"], file["standard_errors"] = model.coefficients, model.standard_errors
        _write_texts(file, "names", model.names)
        _write_texts(file, "classes", model.classes)
        if model.covariance is not None:
            file["covariance"] = model.covariance
        if model.factored is not None:
            _write_factored(file.create_group("factored_covariance"), model.factored)
        if model.encoding is not None:
            _write_encoding(file.create_group("encoding"), model.encoding)


def load_model(path: str | os.PathLike) -> LinearModel:
    """Read a model from its file.

    Raises
    ------
    InputError
        If the file is missing, is no model file, is of a newer format, or contradicts itself.
    """
    with CheckedFile(path, "model file") as file:
        hdf5.check_header(file, LINEAR_MODEL, VERSION)
        attributes, found = file.attributes(), {}
        for kind, names in ATTRIBUTES.items():
            for name in names:
                if name not in attributes:
                    file.refuse(f"attribute {name} is missing")
                found[name] = kind(attributes[name])
                if kind is str:
                    found[name] = one_line(found[name])
        try:
            known_family(found["family"])
        except InputError:
            file.refuse(f"its family is {found['family']!r}")
        coefficients = finite(file, "coefficients", file.dataset("coefficients", "f")[()])
        n, names, classes = len(coefficients), _texts(file, "names"), _texts(file, "classes")
        errors = file.dataset("standard_errors", "f")[()]
        if coefficients.ndim != 1 or errors.shape != (n,) or len(names) != n:
            file.refuse("coefficients, names and standard_errors differ in length")
        covariance = None
        if "covariance" in file.file:
            covariance = finite(file, "covariance", file.dataset("covariance", "f")[()])
            if covariance.shape != (n, n):
                file.refuse(f"/covariance has shape {covariance.shape}, not {(n, n)}")
        factored = None
        if "factored_covariance" in file.file:
            factored = _factored(file.within("factored_covariance"), n)
        encoding = _encoding(file.within("encoding")) if "encoding" in file.file else None
        if "index_base" in attributes:
            found["index_base"] = int(attributes["index_base"])
        for name in OPTIONAL:
            found[name] = bool(attributes.get(name, False))
        model = LinearModel(
            coefficients=coefficients, names=names, standard_errors=errors, covariance=covariance,
            factored=factored, classes=classes, encoding=encoding, **found,
        )  # fmt: skip
        if model.several and (len(classes) < 2 or np.count_nonzero(~model.pinned) != n):
            file.refuse("/classes does not fit the coefficients")
        if encoding is not None and len(encoding.names) != model.features:
            file.refuse(f"/encoding has {len(encoding.names)} features of {model.features}")
        return model


def _write_factored(group: h5py.Group, factored: FactoredCovariance) -> None:
    for name, what in FACTORED.items():
        kind = np.int64 if name == "checked" else np.float64
        group[name] = np.asarray(getattr(factored, name), dtype=kind)
        group[name].attrs["what"] = what
    for name in ("error", "intercept_error"):
        group.attrs[name] = float(getattr(factored, name))


def _factored(file: CheckedFile, n: int) -> FactoredCovariance:
    """Read the approximate covariance of n coefficients."""
    d, w, U = (
        finite(file, name, file.dataset(name, "f")[()])
        for name in ("diagonal", "weights", "vectors")
    )
    checked, attributes = file.dataset("checked", "i")[()], file.attributes()
    if d.shape != (n,) or w.ndim != 1 or U.shape != (n, len(w)) or checked.ndim != 1:
        file.refuse(f"diagonal, weights, vectors and checked do not fit {n} coefficients")
    if not (d > 0).all() or not (w >= 0).all():
        file.refuse("diagonal or weights are not positive")
    if len(checked) and not 0 <= checked.min() <= checked.max() < n:
        file.refuse("/checked holds places of no coefficient")
    if "error" not in attributes:
        file.refuse("attribute error is missing")
    errors = (float(attributes.get(name, np.nan)) for name in ("error", "intercept_error"))
    return FactoredCovariance(d, w, U, checked, *errors)


def _write_texts(group: h5py.Group, name: str, texts) -> None:
    group.create_dataset(name, data=list(texts), dtype=TEXT, shape=(len(texts),))


def _texts(file: CheckedFile, name: str) -> tuple[str, ...]:
    found = file.dataset(name, "OS")
    if found.ndim != 1:
        file.refuse(f"/{name} is no list of texts")
    return tuple(one_line(text) for text in found.asstr()[()])


def _write_encoding(group: h5py.Group, encoding: Encoding) -> None:
    """Write a table of columns, and one of all levels with the column that each is of."""
    columns = encoding.columns
    levels = [(i, level) for i, c in enumerate(columns) for level in c.levels or ()]
    _write_texts(group, "columns", [c.name for c in columns])
    group["texts"] = np.array([c.levels is not None for c in columns], dtype=bool)
    group["missing"] = np.array([c.missing for c in columns], dtype=bool)
    references = [
        -1 if c.reference is None else (c.levels or ()).index(c.reference) for c in columns
    ]
    group["reference"] = np.array(references, dtype=np.int64)
    _write_texts(group, "reference_level", [c.reference or "" for c in columns])  # to be read
    group["level_column"] = np.array([i for i, _ in levels], dtype=np.int64)
    _write_texts(group, "levels", [level for _, level in levels])


def _encoding(file: CheckedFile) -> Encoding:
    names, levels, of = (
        _texts(file, "columns"),
        _texts(file, "levels"),
        file.dataset("level_column"),
    )
    texts, missing, reference = (
        file.dataset(name)[()] for name in ("texts", "missing", "reference")
    )
    if not len(names) == len(texts) == len(missing) == len(reference) or of.shape != (len(levels),):
        file.refuse("the tables of /encoding differ in length")
    columns = []
    for i, name in enumerate(names):
        own = tuple(level for level, at in zip(levels, of[()], strict=True) if at == i)
        if not -1 <= reference[i] < len(own):
            file.refuse(f"/encoding/reference of {name} is no level")
        first = own[reference[i]] if reference[i] >= 0 else None
        columns.append(Column(name, own if texts[i] else None, first, bool(missing[i])))
    return Encoding(tuple(columns))
