"""Block products that outlive their run: interrupted anywhere, gone on with, the same bits."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from oracles import Sharded, check_operator, matrix

from hesscomp.compression import METHODS, compress
from hesscomp.compression.correction import correct
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.curvature.journal import Journaled, journaled
from hesscomp.datasets import from_arrays
from hesscomp.errors import InputError, Interrupted
from hesscomp.parallel.rows import row_range
from hesscomp.parallel.world import World
from hesscomp.problems.logistic import LogisticRegression
from hesscomp.runs.journal import Journal
from hesscomp.storage.slabs import slabs_of

pytestmark = pytest.mark.ranks(most=4)

FACTS = {"rank": "6"}
REQUEST = {"rank": 6, "oversample": 3}


def hessian(comm, *, reproducible=True):
    """A Hessian of order 40 over 613 rows; its world's rank 0 hears no signal, the last one may."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((613, 40)) * np.geomspace(1, 1e-3, 40)
    y = np.where(rng.random(613) < 0.5, -1.0, 1.0)
    world = World(comm, reproducible=reproducible)
    rows = slice(*row_range(613, world.rank, world.size))
    problem = LogisticRegression(from_arrays(X[rows], y[rows], world), world, dtype="float64")
    return HessianOperator(problem, np.linspace(-1, 1, 40))


@pytest.fixture(scope="module")
def alone():
    return hessian(World.serial().comm)


@pytest.fixture(scope="module")
def together(world):
    return hessian(world.comm)


def bits(factor) -> bytes:
    arrays = factor.contents().values()
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def run(operator, folder, stop_after=np.inf, **request):
    """Compress with a journal; the last rank is asked to stop after so many products."""
    world, made = operator.world, -1  # it is asked once before the first product

    def asked():
        nonlocal made
        made += 1
        return world.rank == world.size - 1 and made >= stop_after

    world.stop_asked = asked
    try:
        with journaled(operator, folder, FACTS) as kept:
            factor = compress(kept, **{**REQUEST, **request})
            world.gather(None)
            files = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
            world.gather(None)
            return factor, made, files
    finally:
        world.stop_asked = None


SPREAD = ("krylov", "one-pass", "dense")  # the methods that meet all kinds of products
ALONE = [pytest.param(name, marks=pytest.mark.serial) for name in METHODS if name not in SPREAD]


REQUESTS = {
    "dense": {"rank": 40},
    "hbs": {
        "format": "hbs", "rank": None, "tolerance": 0.1, "leaf_size": 5, "oversample": 1,
        "sketch_columns": 7, "probe_count": 4,
    },
    "hodlr": {"format": "hodlr", "rank": 1, "leaf_size": 5},
}  # fmt: skip


@pytest.mark.parametrize("method", [*SPREAD, "hbs", "hodlr", *ALONE])
def test_a_run_ended_after_any_product_goes_on(world, together, shared_tmp, method):
    request = REQUESTS.get(method, {"method": method})
    for layout in ("replicated", "rows"):
        whole = compress(together, **{**REQUEST, **request}, layout=layout)
        stop, step, folder = 1, 1 if world.size == 1 else 2, shared_tmp / layout
        while True:
            before = together.world.ledger.replayed
            try:
                factor, products, _ = run(together, folder, stop, layout=layout, **request)
                break
            except Interrupted:
                world.gather(None)
                assert len(list(folder.glob("product-*.h5"))) == stop
                stop += step
        assert bits(factor) == bits(whole) and stop > products
        assert factor.provenance.columns == whole.provenance.columns
        kept = together.world.ledger.replayed - before
        # All products, or all but the last one where the steps go past it.
        last = stop - step < products and factor.provenance.columns - kept
        assert kept == factor.provenance.columns - last and last <= 10
        world.gather(None)
        assert not folder.exists()


@pytest.mark.parametrize("layouts", [("rows", "replicated"), ("replicated", "rows")])
def test_another_number_of_ranks_and_the_other_layout_go_on(
    world, together, alone, shared_tmp, layouts
):
    first, then = layouts
    whole = compress(alone, **REQUEST, method="eigh", layout="replicated")
    with pytest.raises(Interrupted):
        run(together, shared_tmp / "run", 2, method="eigh", layout=first)
    world.gather(None)
    if world.rank == 0:
        before = alone.world.ledger.replayed
        factor, _, _ = run(alone, shared_tmp / "run", method="eigh", layout=then)
        np.testing.assert_allclose(factor.eigenvalues, whole.eigenvalues, rtol=1e-12)
        assert alone.world.ledger.replayed == before + 9 + 9 + 8


def test_damaged_and_missing_products_are_made_again(world, together, shared_tmp, caplog):
    """And all that is damaged is named; each costs its own product and no other."""
    for layout in ("replicated", "rows"):
        folder = shared_tmp / layout
        whole = bits(compress(together, **REQUEST, method="krylov", layout=layout, block=3))
        with pytest.raises(Interrupted):
            run(together, folder, 7, method="krylov", layout=layout, block=3)
        world.gather(None)
        paths = sorted(folder.glob("product-*.h5"))
        if world.rank == 0:
            paths[0].write_bytes(b"")
            paths[1].write_bytes(paths[1].read_bytes()[:-100])
            paths[2].unlink()
            with h5py.File(paths[3], "r+") as file:  # whole, but of another block
                file["inputs"][1, 2] *= 1 + 1e-8
            part = (slabs_of(paths[5], "result") or [paths[5]])[0]
            with h5py.File(part) as file:
                at = file["result"].id.get_chunk_info(0).byte_offset
            content = bytearray(part.read_bytes())
            content[at + 20] ^= 1
            part.write_bytes(content)
        world.gather(None)
        before = together.world.ledger.replayed
        caplog.clear()
        factor, _, _ = run(together, folder, method="krylov", layout=layout, block=3)
        assert bits(factor) == whole
        if world.rank == 0:
            said = [record.getMessage() for record in caplog.records]
            for path, line in zip([*paths[:4], paths[5]], said, strict=True):
                assert path.name in line and "made again" in line
            assert together.world.ledger.replayed - before == 2 * 3  # columns of the others


def crafted(name, data):
    def change(file):
        del file[name]
        file[name] = data

    return change


BAD_PRODUCTS = {
    "shape": (crafted("result", np.zeros((40, 8))), "the product of another block"),
    "flat": (crafted("result", np.zeros(360)), "the product of another block"),
    "empty": (crafted("result", h5py.Empty("f8")), "the product of another block"),
    "group": (lambda file: file.move("result", "inner/result"), "/result is missing"),
    "text": (crafted("result", np.full((40, 9), b"a")), "/result has type"),
    "whole": (crafted("result", np.zeros((40, 9), int)), "/result has type int64"),
    "swapped": (crafted("result", np.zeros((40, 9), ">f8")), "/result has type >f8"),
    "half": (crafted("result", np.zeros((40, 9), "f2")), "/result has type float16"),
    "nan": (crafted("result", np.full((40, 9), np.nan)), "/result holds numbers that are not fin"),
    "inputs": (crafted("inputs", np.full((2, 9), np.nan)), "the product of another block"),
    "no inputs": (crafted("inputs", np.zeros(())), "the product of another block"),
    "kind": (lambda file: file.attrs.create("kind", [1, 2]), "cannot be read as a product"),
    "version": (lambda file: file.attrs.create("format_version", [1, 1]), "not a count"),
}


@pytest.mark.serial
@pytest.mark.parametrize("case", BAD_PRODUCTS)
def test_products_that_do_not_fit_are_made_again(alone, tmp_path, caplog, case):
    change, words = BAD_PRODUCTS[case]
    whole = compress(alone, **REQUEST, method="eigh")
    with pytest.raises(Interrupted):
        run(alone, tmp_path, 2, method="eigh")
    with h5py.File(tmp_path / "product-000000.h5", "r+") as file:
        change(file)
    factor, _, _ = run(alone, tmp_path, method="eigh")
    assert bits(factor) == bits(whole)
    (line,) = (record.getMessage() for record in caplog.records)
    assert words in line and "product-000000.h5" in line and "made again" in line


@pytest.mark.serial
def test_facts_that_are_no_texts_are_another_runs(alone, tmp_path):
    with pytest.raises(Interrupted):
        run(alone, tmp_path, 1, method="eigh")
    with h5py.File(tmp_path / "product-000000.h5", "r+") as file:
        file["facts"].attrs["rank"] = ["6", "6"]
    with pytest.raises(InputError, match=r"made with rank .* not 6; name another"):
        run(alone, tmp_path, method="eigh")


def test_a_folder_of_another_run_is_refused(world, together, shared_tmp):
    with pytest.raises(Interrupted):
        run(together, shared_tmp / "run", 2, method="eigh")
    with pytest.raises(InputError, match="made with rank 6, not 7"):
        Journal(shared_tmp / "run", {"rank": "7"}, world)
    # Other blocks, although the facts do not say so.
    other = compress(together, **REQUEST, method="eigh", seed=3)
    factor, _, _ = run(together, shared_tmp / "run", method="eigh", seed=3)
    assert bits(factor) == bits(other)


def test_a_product_that_fails_is_not_kept(world, shared_tmp):
    """The run is as if killed within its third product; then it goes on."""
    A = matrix("polynomial", True)

    class Failing(Sharded):
        left = 2

        def _local(self, V):
            self.left -= 1
            if self.left < 0:
                raise MemoryError
            return super()._local(V)

    fresh = World(world.comm)
    with pytest.raises(MemoryError):
        run(Failing(A, fresh, False), shared_tmp / "run", method="krylov")
    world.gather(None)
    assert len(list((shared_tmp / "run").glob("product-*"))) == 2
    factor, _, files = run(Sharded(A, fresh, False), shared_tmp / "run", method="krylov")
    assert len(files) > 2 and fresh.ledger.replayed > 0
    whole = compress(Sharded(A, World(world.comm), False), **REQUEST, method="krylov")
    np.testing.assert_allclose(factor.eigenvalues, whole.eigenvalues, rtol=1e-12)


def test_corrections_and_other_products_go_on(world, together, shared_tmp):
    known = 0.9 * compress(together, 4)
    whole = correct(together, known, 5, seed=1)
    for stop in (True, False):
        together.world.stop_asked = lambda stop=stop: stop
        try:
            with journaled(together, shared_tmp / "run", FACTS) as operator:
                factor = correct(operator, known, 5, seed=1)
        except Interrupted:
            assert stop
        finally:
            together.world.stop_asked = None
        world.gather(None)
    assert bits(factor) == bits(whole) and factor.provenance.operator == "HessianOperator"


def test_a_journaled_operator_is_an_operator(world, shared_tmp):
    A = matrix("polynomial", True)
    base = Sharded(A, World(world.comm), False)
    operator = Journaled(base, Journal(shared_tmp / "run", FACTS, base.world))
    check_operator(operator, A, 1e-12)
    again = Journaled(base, Journal(shared_tmp / "run", FACTS, base.world))
    before = base.world.ledger.replayed
    check_operator(again, A, 1e-12)
    assert base.world.ledger.replayed > before
    again.journal.remove()
    world.gather(None)
    assert not any((shared_tmp / "run").iterdir())


HOLDS = """
import sys, time
from hesscomp.parallel.world import World
from hesscomp.storage.lock import sole_use
with sole_use(sys.argv[1], World()):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.serial
def test_a_folder_that_another_job_uses_is_refused(world, together, tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holds\n"
        with pytest.raises(InputError, match="another run is using it"):
            run(together, folder)
        other.kill()
    factor, _, _ = run(together, folder)
    assert bits(factor) == bits(compress(together, **REQUEST))
    assert not folder.exists()
