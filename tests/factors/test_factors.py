"""The factor's algebra and its file."""

import dataclasses

import h5py
import numpy as np
import pytest
from oracles import check_low_rank, matrix

from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.factors import Certificate, LowRank, Provenance, load_factor, save_factor
from hesscomp.factors.point import load_point
from hesscomp.operators.matrix import MatrixOperator


def make_factor(n=12, k=4, signs=True, seed=0):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, k)))[0]
    w = np.sort(rng.uniform(0.5, 3.0, k))[::-1] * (rng.choice([-1, 1], k) if signs else 1)
    return LowRank(
        w,
        U,
        certificate=Certificate(
            0.1, 4.0, 0.5, True, "probes", np.full(k, 1e-3), np.ones(k, dtype=bool)
        ),
        provenance=Provenance(
            problem="tést", ridge=1e-3, rank_requested=k, reproducible=False, seconds=0.5
        ),
        parameters=rng.standard_normal(n),
        blocks=(("kernel", (n // 2, 1), 0), ("bias", (n - n // 2,), n // 2)),
    )


@pytest.mark.parametrize("n, k", [(12, 4), (1, 1), (5, 5), (6, 0)])
@pytest.mark.parametrize("signs", [False, True])
def test_factor(n, k, signs, tmp_path):
    check_low_rank(make_factor(n, k, signs), tmp_path)


def test_file_is_readable_without_hesscomp(tmp_path):
    factor = make_factor()
    save_factor(factor, tmp_path / "f.h5", compress=True)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["format"] == "hesscomp-factor"
        assert file.attrs["format_version"] == 1 and file.attrs["format_version"].dtype == np.int64
        assert file.attrs["kind"] == "low-rank"
        assert (file.attrs["n"], file.attrs["rank"]) == (12, 4)
        w, U = file["eigenvalues"][:], file["eigenvectors"][:]
        np.testing.assert_array_equal(
            (U * w) @ U.T, (factor.eigenvectors * w) @ factor.eigenvectors.T
        )
        assert file["eigenvectors"].chunks is not None
        assert file["blocks"]["name"].tolist() == [b"kernel", b"bias"]
        assert file["blocks"]["shape"].tolist() == [b"6,1", b"6"]
        assert file["blocks"]["offset"].tolist() == [0, 6] and file["blocks"]["size"].tolist() == [
            6,
            6,
        ]
        assert file["parameters"].shape == (12,)
        certificate = file["certificate"]
        assert certificate.attrs["frobenius_error_estimate"] == 0.1
        assert certificate.attrs["converged"]
        assert certificate["residual_norms"].shape == (4,)
        provenance = file["provenance"].attrs
        assert provenance["problem"] == "tést" and provenance["ridge"] == 1e-3
        assert provenance["rank_requested"] == 4 and provenance["rank_requested"].dtype == np.int64
        assert np.isnan(provenance["tolerance_requested"]) and provenance["columns"] == -1
        assert set(provenance) == {field.name for field in dataclasses.fields(Provenance)}


def test_files_of_earlier_versions_are_read(tmp_path):
    """They lack how likely the bound is to fail, whether the pairs are Ritz pairs, and the norm."""
    path = tmp_path / "factor.h5"
    factor = compress(MatrixOperator(matrix("polynomial")), tolerance=0.3, method="eigh")
    save_factor(factor, path)
    now = load_factor(path)
    np.testing.assert_equal(vars(now.certificate), vars(factor.certificate))
    assert now.certificate.ritz
    assert now.certificate.spectral_failure == 1e-8
    assert now.provenance.tolerance_norm == "frobenius"
    with h5py.File(path, "r+") as file:
        for name in ("spectral_failure", "ritz"):
            del file["certificate"].attrs[name]
        del file["provenance"].attrs["tolerance_norm"]
    old = load_factor(path)
    assert np.isnan(old.certificate.spectral_failure) and not old.certificate.ritz
    assert old.provenance.tolerance_norm == "" and old.certificate.converged


def test_float32_eigenvectors_on_request(tmp_path):
    factor = make_factor()
    save_factor(factor, tmp_path / "f.h5", dtype="float32")
    loaded = load_factor(tmp_path / "f.h5")
    np.testing.assert_allclose(loaded.eigenvectors, factor.eigenvectors, atol=1e-6)


def test_a_failed_write_keeps_the_previous_file(tmp_path):
    path = tmp_path / "f.h5"
    save_factor(make_factor(seed=1), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_factor(make_factor(seed=2), path, dtype="no such type")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.h5"]


def forge(path, change):
    save_factor(make_factor(), path)
    with h5py.File(path, "r+") as file:
        change(file)


def replaced(name, value):
    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


def claim_a_huge_array(file):
    del file["eigenvectors"]
    file.attrs["n"] = np.int64(10**9)
    file.create_dataset("eigenvectors", shape=(10**9, 4), dtype="f8", chunks=(10**6, 4))


BAD_FILES = {
    "format": (lambda f: f.attrs.__setitem__("format", "other"), "format attribute is 'other'"),
    "version": (lambda f: f.attrs.__setitem__("format_version", np.int64(99)), "version is 99"),
    "kind": (lambda f: f.attrs.__setitem__("kind", "tensor"), "kind is 'tensor'"),
    "rank": (
        lambda f: f.attrs.__setitem__("rank", np.int64(40)),
        "rank 40 is more than n = 12 allows",
    ),
    "negative": (lambda f: f.attrs.__setitem__("n", np.int64(-1)), "attribute n"),
    "missing": (replaced("eigenvalues", None), "/eigenvalues is missing"),
    "shape": (replaced("eigenvalues", np.zeros(3)), "/eigenvalues has shape"),
    "type": (replaced("eigenvalues", np.zeros(4, "S3")), "/eigenvalues has type"),
    "nan": (replaced("eigenvectors", np.full((12, 4), np.nan)), "not finite"),
    "external": (replaced("eigenvalues", h5py.ExternalLink("/etc/passwd", "/x")), "link"),
    "soft": (replaced("eigenvalues", h5py.SoftLink("/parameters")), "link"),
    "huge": (claim_a_huge_array, "claims"),
    "certificate": (replaced("certificate", None), "/certificate is missing"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line(case, tmp_path):
    change, words = BAD_FILES[case]
    path = tmp_path / "bad.h5"
    forge(path, change)
    with pytest.raises(InputError) as caught:
        load_factor(path)
    assert words in str(caught.value) and "bad.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_missing_and_other_files(tmp_path):
    path = tmp_path / "f.h5"
    save_factor(make_factor(), path)
    path.write_bytes(path.read_bytes()[:3000])
    for bad in (path, tmp_path / "none.h5", tmp_path, __file__):
        with pytest.raises(InputError, match=r"f.h5|none.h5|folder|cannot be read"):
            load_factor(bad)


def test_shapes_that_do_not_fit_and_singular_solves_are_refused():
    factor = make_factor()
    with pytest.raises(InputError, match="n = 12 does not fit"):
        factor @ np.zeros(5)
    with pytest.raises(InputError, match="singular"):
        factor.solve(np.ones(12), 0.0, "zero")
    with pytest.raises(InputError, match="tail"):
        factor.solve(np.ones(12), 1.0, "none")


def test_points(tmp_path):
    factor = make_factor()
    save_factor(factor, tmp_path / "f.h5")
    np.save(tmp_path / "x.npy", np.arange(3.0))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "nan.npy", np.array([np.nan]))
    np.testing.assert_array_equal(load_point("zero", 3), np.zeros(3))
    np.testing.assert_array_equal(load_point(tmp_path / "x.npy", 3), np.arange(3.0))
    np.testing.assert_array_equal(load_point(tmp_path / "f.h5", 12), factor.parameters)
    for bad in ("objects.npy", "nan.npy", "missing.npy"):
        with pytest.raises(InputError, match=bad):
            load_point(tmp_path / bad, 3)
