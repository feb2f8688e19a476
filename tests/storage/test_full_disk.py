"""No room or no right to write: the file that was there stays whole, and one line says it all."""

import errno
import os
import platform
import resource
import shutil
import subprocess
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure

from hesscomp.analysis.style import save_figure
from hesscomp.cli.main import main
from hesscomp.errors import InputError
from hesscomp.factors import Certificate, LowRank, save_factor
from hesscomp.factors.trajectory import trajectory_writer
from hesscomp.parallel.layout import Replicated, RowLayout
from hesscomp.parallel.world import World
from hesscomp.runs.checkpoint import NAME, Checkpoint, load_checkpoint, save_checkpoint
from hesscomp.runs.history import History
from hesscomp.runs.journal import Journal
from hesscomp.runs.report import write_json

SMALL, LARGE = 50, 100_000  # numbers: 1 MB, or 2, do not fit where the small ones do
LIMIT = 300_000  # bytes


def factor(n, layout=None):
    return LowRank(
        np.ones(2), np.eye(n, 2), certificate=Certificate(0.0, 1.0), layout=layout or Replicated(n)
    )  # fmt: skip


def write_trajectory(path, n):
    with trajectory_writer(path) as add:
        add("first", factor(n))


def write_picture(path, n):
    figure, side = Figure((8, 8)), int(n**0.5)
    figure.subplots().imshow(np.random.default_rng(0).random((side, side)))
    save_figure(figure, path)


def solve(path, n):
    save_factor(factor(n), path.parent.parent / "f.h5")
    np.save(path.parent.parent / "g.npy", np.ones((n, 2)))
    words = ["--rhs", path.parent.parent / "g.npy", "--shift", 1, "--out", path]
    if main(["solve", *map(str, [path.parent.parent / "f.h5", *words])]):
        raise OSError(errno.ENOSPC, "told", str(path))


def checkpoint(step, n):
    return Checkpoint(step, {"x": np.ones(n)}, {}, {}, {})


def write_product(path, n):
    world = World.serial()
    journal, result = Journal(path.parent, {"data": "none"}, world), np.ones((n, 2))
    journal.result("sum", (), result.shape, Replicated(n, world), lambda: result)


WRITERS = {
    "f.h5": lambda path, n: save_factor(factor(n), path),
    "phase.h5": lambda path, n: save_factor(factor(n, Replicated(n, World.serial())), path),
    "slabs.h5": lambda path, n: save_factor(factor(n, RowLayout(n, World.serial())), path),
    "t.h5": write_trajectory,
    "r.json": lambda path, n: write_json(path, {"history": [1 / 3] * n}),
    "h.csv": lambda path, n: History([{"f": 1 / 3}] * n).write_csv(path),
    "p.png": write_picture,
    "d.npy": solve,
    "checkpoint.h5": lambda path, n: save_checkpoint(checkpoint(1, n), path.parent, World.serial()),
    "product-000000.h5": write_product,
}


@contextmanager
def file_size_limit():
    """What `ulimit -f` does; needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def quota(tmp_path_factory):
    """A folder of which 1 MB may be used, on a disk with more room."""
    image = tmp_path_factory.mktemp("quota") / "disk.img"
    mount = image.with_name("disk")
    mount.mkdir()
    if os.geteuid() != 0 or not shutil.which("mkfs.btrfs"):
        pytest.skip("a quota of one's own needs root and btrfs-progs")
    with open(image, "wb") as file:
        file.truncate(2**28)
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    run(["mkfs.btrfs", "--quiet", image])
    if subprocess.run(["mount", "-o", "loop", image, mount]).returncode:
        pytest.skip("this system does not mount a btrfs image")
    run(["btrfs", "quota", "enable", mount])
    run(["btrfs", "subvolume", "create", mount / "mine"])
    run(["btrfs", "qgroup", "limit", "1M", mount / "mine"])
    yield mount / "mine"
    run(["umount", mount])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse(folder, name, reason):
    """Writing a large file of this name fails, in one line, and changes nothing in the folder."""
    before = contents(folder)
    with pytest.raises((OSError, ValueError)) as caught:
        WRITERS[name](folder / name, LARGE)
    if name != "d.npy":  # whose line is looked at elsewhere
        text = str(caught.value)
        assert str(folder / name) in text and reason in text and "\n" not in text
    assert contents(folder) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_loses_nothing(disk, name):
    WRITERS[name](disk / name, SMALL)
    (disk / "other").write_bytes(bytes(3 * 2**18))
    refuse(disk, name, "No space left on device; free some space or name another folder")


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_loses_nothing(disk, name):
    WRITERS[name](disk / name, SMALL)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refuse(disk, name, "Read-only file system; name a folder that can be written")


@pytest.mark.parametrize("name", WRITERS)
def test_a_quota_loses_nothing(quota, name):
    folder = quota / name.partition(".")[0]
    folder.mkdir()
    WRITERS[name](folder / name, SMALL)
    (folder / "other").write_bytes(bytes(2**19))
    refuse(folder, name, "Disk quota exceeded; free some space or name another folder")
    shutil.rmtree(folder)
    os.sync()  # btrfs counts at a commit


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "d.npy"])
def test_a_limit_of_sizes_loses_nothing(tmp_path, name):
    WRITERS[name](tmp_path / name, SMALL)
    with file_size_limit():
        refuse(tmp_path, name, "File too large; raise the limit (ulimit -f) or write less")


def test_a_checkpoint_that_fits_is_kept(tmp_path):
    for step in (1, 2):
        save_checkpoint(checkpoint(step, SMALL), tmp_path, World.serial())
    for _ in range(2):
        with file_size_limit(), pytest.raises(InputError, match="File too large; raise the limit"):
            save_checkpoint(checkpoint(3, LARGE), tmp_path, World.serial())
        assert load_checkpoint(tmp_path / NAME).step == 2
        assert not list(tmp_path.glob(".*"))


def test_what_killed_processes_left_is_removed(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    begin = f".r.json.{platform.node()}"
    others = [f"{begin}.{os.getppid()}.tmp.json", f".r.json.elsewhere.{killed.pid}.tmp.json"]
    others += [f".q.json.{platform.node()}.{killed.pid}.tmp.json", f"{begin}.x.tmp.json"]
    for name in (f"{begin}.{killed.pid}.tmp.json", *others):
        (tmp_path / name).touch()
    write_json(tmp_path / "r.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["r.json", *others])


def test_a_command_says_it_in_one_line(disk, capsys):
    (disk / "other").write_bytes(bytes(3 * 2**18))
    with pytest.raises(OSError, match="told"):
        solve(disk / "d.npy", LARGE)
    line = capsys.readouterr().err
    assert line.startswith(f"hesscomp: error: {disk / 'd.npy'}: No space left on device; free")
    assert line.count("\n") == 1 and [path.name for path in disk.iterdir()] == ["other"]
