"""What touches a disk: the header that all files begin with."""

import h5py
import numpy as np
import pytest

import hesscomp
from hesscomp.errors import InputError
from hesscomp.storage.hdf5 import CheckedFile, check_header, new_file, write_header


@pytest.fixture
def path(tmp_path):
    with new_file(tmp_path / "a.h5") as file:
        write_header(file, "hesscomp-test", 2, kind="small")
        write_header(file.create_group("inner"), "hesscomp-test", 1)
    return tmp_path / "a.h5"


def test_a_header_says_format_version_and_writer(path):
    with h5py.File(path) as file:
        assert dict(file.attrs) == {
            "format": "hesscomp-test",
            "format_version": 2,
            "hesscomp_version": hesscomp.__version__,
            "kind": "small",
        }
        assert file.attrs["format_version"].dtype == np.int64


def test_older_and_equal_versions_are_read(path):
    with CheckedFile(path) as file:
        check_header(file, "hesscomp-test", 2)
        check_header(file, "hesscomp-test", 3)
        check_header(file.within("inner"), "hesscomp-test", 2)


@pytest.mark.parametrize(
    ("form", "version", "words"),
    [
        ("hesscomp-other", 2, "its format attribute is 'hesscomp-test', not 'hesscomp-other'"),
        ("hesscomp-test", 1, "its format version is 2, this hesscomp reads up to 1"),
    ],
)
def test_other_formats_and_newer_versions_are_refused(path, form, version, words):
    with pytest.raises(InputError, match=words), CheckedFile(path) as file:
        check_header(file, form, version)


@pytest.mark.parametrize("version", [0, "one", None])
def test_a_version_that_is_none_is_refused(path, version):
    with h5py.File(path, "r+") as file:
        del file.attrs["format_version"]
        if version is not None:
            file.attrs["format_version"] = version
    with pytest.raises(InputError, match="version"), CheckedFile(path) as file:
        check_header(file, "hesscomp-test", 2)
