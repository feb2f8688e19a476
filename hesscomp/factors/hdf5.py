"""The factor file: one HDF5 file, whole or absent, readable without hesscomp.

The layout is documented in docs/factor-file.md. Reading trusts nothing: attributes, shapes and
sizes are checked before an array is allocated, and links out of the file are refused.
"""

import os
from dataclasses import asdict, fields
from datetime import UTC, datetime

import h5py
import numpy as np

import hesscomp
from hesscomp.errors import InputError
from hesscomp.factors.certificate import NAN, Certificate
from hesscomp.factors.lowrank import LowRank
from hesscomp.factors.provenance import Provenance
from hesscomp.runs.files import atomic_path
from hesscomp.runs.hdf5 import CheckedFile

FORMAT = "hesscomp-factor"
VERSION = 1
CHUNK_BYTES = 2**20


def save_factor(
    factor: LowRank, path: str | os.PathLike, *, dtype: str = "float64", compress: bool = False
) -> None:
    """Write a factor to `path`; an earlier file there is replaced only by a whole new one.

    Parameters
    ----------
    factor : LowRank
    path : path
    dtype : {"float64", "float32"}
        Of the eigenvectors on disk.
    compress : bool
        Deflate the eigenvectors (slower, rarely much smaller).

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = np.int64(VERSION)
        file.attrs["kind"] = "low-rank"
        file.attrs["n"] = np.int64(factor.n)
        file.attrs["rank"] = np.int64(factor.rank)
        file.attrs["hesscomp_version"] = hesscomp.__version__
        file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        file["eigenvalues"] = factor.eigenvalues.astype(np.float64)
        rows = min(max(CHUNK_BYTES // (8 * max(factor.rank, 1)), 1), max(factor.n, 1))
        chunked = factor.rank > 0
        file.create_dataset(
            "eigenvectors",
            data=factor.eigenvectors.astype(dtype),
            chunks=(rows, factor.rank) if chunked else None,
            compression="gzip" if compress and chunked else None,
            shuffle=compress and chunked,
        )
        if factor.parameters is not None:
            file["parameters"] = factor.parameters.astype(np.float64)
        _write_blocks(file, factor.blocks)
        _write_certificate(file.create_group("certificate"), factor.certificate)
        provenance = file.create_group("provenance")
        for name, value in asdict(factor.provenance).items():
            provenance.attrs[name] = np.int64(value) if type(value) is int else value


def _write_blocks(file: h5py.File, blocks) -> None:
    text = h5py.string_dtype("utf-8")
    kind = np.dtype([("name", text), ("shape", text), ("offset", "i8"), ("size", "i8")])
    table = np.empty(len(blocks), dtype=kind)
    for i, (name, shape, offset) in enumerate(blocks):
        table[i] = (name, ",".join(map(str, shape)), offset, int(np.prod(shape)))
    file.create_dataset("blocks", data=table)


def _write_certificate(group: h5py.Group, certificate: Certificate) -> None:
    group.attrs["frobenius_error_estimate"] = certificate.frobenius_error_estimate
    group.attrs["frobenius_norm_estimate"] = certificate.frobenius_norm_estimate
    group.attrs["spectral_error_bound"] = certificate.spectral_error_bound
    group.attrs["converged"] = np.bool_(certificate.converged)
    group.attrs["estimator"] = certificate.estimator
    if certificate.residual_norms is not None:
        group["residual_norms"] = certificate.residual_norms
    if certificate.eigenvalue_converged is not None:
        group["eigenvalue_converged"] = certificate.eigenvalue_converged


def load_factor(path: str | os.PathLike) -> LowRank:
    """Read a factor file.

    Raises
    ------
    InputError
        If the file is missing, is no factor file, is of a newer format, or contradicts itself;
        the message names the file and what is wrong in it.
    """
    with CheckedFile(path, "factor file") as file:
        try:
            return _read(file)
        except InputError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as a factor file ({text})") from error


def load_parameters(path: str | os.PathLike) -> np.ndarray:
    """Read only the point, `/parameters`, of a factor file; errors as `load_factor`."""
    with CheckedFile(path, "factor file") as file:
        _check_header(file)
        return _array(file, "parameters", (_count(file, "n"),))


def _read(file: CheckedFile) -> LowRank:
    _check_header(file)
    n, rank = _count(file, "n"), _count(file, "rank")
    if rank > n:
        file.refuse(f"rank {rank} exceeds n = {n}")
    eigenvalues = _array(file, "eigenvalues", (rank,))
    eigenvectors = _array(file, "eigenvectors", (n, rank))
    parameters = _optional(file, "parameters", (n,))
    attributes = file.group("certificate").attrs
    certificate = Certificate(
        frobenius_error_estimate=float(attributes["frobenius_error_estimate"]),
        frobenius_norm_estimate=float(attributes["frobenius_norm_estimate"]),
        spectral_error_bound=float(attributes.get("spectral_error_bound", NAN)),
        converged=bool(attributes["converged"]),
        estimator=str(attributes.get("estimator", "")),
        residual_norms=_optional(file, "certificate/residual_norms", (rank,)),
        eigenvalue_converged=_optional(file, "certificate/eigenvalue_converged", (rank,), "b"),
    )
    attributes = file.group("provenance").attrs
    provenance = Provenance(
        **{
            field.name: field.type(attributes[field.name])
            for field in fields(Provenance)
            if field.name in attributes
        }
    )
    return LowRank(eigenvalues, eigenvectors, certificate, provenance, parameters, _blocks(file, n))


def _check_header(file: CheckedFile) -> None:
    attributes = file.file.attrs
    found = attributes.get("format")
    if found != FORMAT:
        file.refuse(f"its format attribute is {found!r}, not {FORMAT!r}")
    version = _count(file, "format_version")
    if version > VERSION:
        file.refuse(f"its format version is {version}, this hesscomp reads up to {VERSION}")
    kind = attributes.get("kind")
    if kind != "low-rank":
        file.refuse(f"its kind is {kind!r}; this hesscomp reads 'low-rank'")


def _count(file: CheckedFile, name: str) -> int:
    value = file.file.attrs.get(name)
    if not isinstance(value, np.integer) or value < 0:
        file.refuse(f"attribute {name} is missing or no count")
    return int(value)


def _array(file: CheckedFile, name: str, shape: tuple[int, ...], kind: str = "f") -> np.ndarray:
    found = file.dataset(name, kind)
    if found.shape != shape:
        file.refuse(f"/{name} has shape {found.shape}, expected {shape}")
    values = found[()]
    if kind == "f":
        values = values.astype(np.float64, copy=False)
        if not np.isfinite(values).all() and not name.startswith("certificate/"):
            file.refuse(f"/{name} holds numbers that are not finite")
    return values


def _optional(file: CheckedFile, name: str, shape, kind: str = "f") -> np.ndarray | None:
    return _array(file, name, shape, kind) if name in file.file else None


def _blocks(file: CheckedFile, n: int) -> tuple:
    blocks, offset = [], 0
    for row in file.dataset("blocks")[()]:
        name, shape = row["name"].decode(), row["shape"].decode()
        shape = tuple(int(size) for size in shape.split(",") if size)
        if int(row["offset"]) != offset or int(row["size"]) != int(np.prod(shape)):
            file.refuse(f"/blocks: {name} does not follow the block before it")
        blocks.append((name, shape, offset))
        offset += int(row["size"])
    if blocks and offset != n:
        file.refuse(f"/blocks cover {offset} parameters of {n}")
    return tuple(blocks)
