"""The journal of a run: the results of its block products, so that a run resumes from them.

Products are all that costs. A run that was ended is started again from its seed; everything between
the products is computed again, bit for bit, and those that are in the journal are not made again.
Each is a file of its own, whole or absent, which no later one replaces.
"""

import copy
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel import random
from hesscomp.parallel.layout import Layout, RowLayout
from hesscomp.parallel.ledger import Ledger
from hesscomp.runs.checkpoint import check_same_run
from hesscomp.storage.files import atomic_path, remove_files, remove_leftovers
from hesscomp.storage.hdf5 import CheckedFile, check_header, finite, new_file, write_header
from hesscomp.storage.slabs import own_slabs, read_rows, save_slabs

log = logging.getLogger(__name__)

FORMAT, VERSION = "hesscomp-product", 1
RESULT, INPUTS = "result", "inputs"
WHAT = "product of a run"
SAME = 1e-10  # of a column's norm: how far an input may be from the one that was multiplied


@dataclass(frozen=True)
class Product:
    """What is known of a product before it is made."""

    kind: str  # what is computed of the inputs
    inputs: np.ndarray  # (2, j), norms of columns, and inner products with a fixed random vector
    shape: tuple[int, int]  # of the result

    def fits(self, kind: str, inputs: np.ndarray, shape: tuple[int, ...]) -> bool:
        """Return whether a stored product is this one."""
        if kind != self.kind or inputs.shape != self.inputs.shape or shape != self.shape:
            return False
        return bool(np.all(np.abs(inputs - self.inputs) <= SAME * self.inputs[0]))


class Journal:
    """A folder with the results of a run's products, `product-000000.h5` and so on. Collective.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    run_identity : dict of str to str
        What decides the numbers of the run, by name; a folder with another identity is refused.
    world : World

    Raises
    ------
    InputError
        If the folder cannot be used, or holds a run of another identity.

    Notes
    -----
    An (n, k) result takes n k words on disk. Rank 0 writes it where all ranks hold it, else each
    rank its rows; any number of ranks reads it in either layout. Where a file is damaged or holds
    the product of another block (by norms and a random projection of its columns, to 1e-10), the
    product is made again, with a warning. The world's ledger counts only `replayed`.
    """

    def __init__(self, folder: str | os.PathLike, run_identity: dict[str, str], world):
        self.folder, self.run_identity = Path(folder), run_identity
        self.ledger, self.world = world.ledger, world.with_ledger(Ledger())
        self.made = 0
        last = -1
        with self.world.phase(f"opening {folder}"):
            if world.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.folder, "product-*.h5")
                for path in self._files():
                    self._check(path)
                    last = max(last, int(path.stem.partition("-")[2]))
        self.last = self.world.broadcast(last)
        world.check_interrupt()

    def result(
        self,
        kind: str,
        inputs: tuple[np.ndarray, ...],
        shape: tuple[int, int],
        layout: Layout,
        make: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Return the next product of the run: from the journal if it is there, else made and kept.

        Parameters
        ----------
        kind : str
            A name of what is computed; "block" for a product in `layout`, others are whole on all
            ranks.
        inputs : tuple of (rows, j) arrays in `layout`
        shape : tuple of int
            The shape of the whole result.
        layout : Layout
        make : callable
            Makes the result.
        """
        product = Product(kind, self._signature(inputs, layout), shape)
        path, self.made = self.folder / f"product-{self.made:06d}.h5", self.made + 1
        slabs = layout if kind == "block" and isinstance(layout, RowLayout) else None
        out = self._read(path, product, slabs) if self.made <= self.last + 1 else None
        if out is not None:
            self.ledger.replayed += shape[1]
            return out
        out = np.ascontiguousarray(make())
        self._write(path, product, out, slabs)
        return out

    def remove(self) -> None:
        """Remove the products, once their result is stored elsewhere."""
        with self.world.phase(f"clearing {self.folder}"):
            if self.world.rank == 0:
                for path in self._files():
                    remove_files([*own_slabs(path, RESULT), path])
                remove_files(list(self.folder.glob("product-*.slab")))

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("product-[0-9][0-9][0-9][0-9][0-9][0-9].h5"))

    def _check(self, path: Path) -> None:
        """Refuse a file of another run; a damaged one is noticed when it is needed."""
        try:
            with CheckedFile(path, WHAT) as file:
                identity = dict(file.attributes("facts"))
        except InputError:
            return
        check_same_run(identity, self.run_identity, self.folder)

    def _signature(self, inputs: tuple[np.ndarray, ...], layout: Layout) -> np.ndarray:
        layout = copy.copy(layout)
        layout.world = self.world
        g = random.standard_normal(0, random.GUARD, (layout.start, layout.stop), (0, 1))
        parts = [np.vstack([layout.squares(V) ** 0.5, layout.inner(g, V)]) for V in inputs]
        return np.hstack(parts) if parts else np.empty((2, 0))

    def _read(self, path: Path, product: Product, slabs: RowLayout | None) -> np.ndarray | None:
        """Return the result in a file; None, with a warning, where there is none that fits."""
        out = reason = None
        if slabs is not None or self.world.rank == 0:
            rows = None if slabs is None else (slabs.start, slabs.stop)
            try:
                out = load_product(path, product, rows)
            except InputError as error:
                reason = str(error)
        reason = next((text for text in self.world.gather(reason) if text is not None), None)
        if reason is not None:
            if self.world.rank == 0:
                log.warning("%s; this product is made again", reason)
            return None
        return self.world.on_root(lambda: out) if slabs is None else out

    def _write(
        self, path: Path, product: Product, out: np.ndarray, slabs: RowLayout | None
    ) -> None:
        how: dict[str, Any] = {"fletcher32": True} if out.size else {}
        if slabs is not None:
            write = lambda file: self._write_head(file, product)  # noqa: E731 (short)
            save_slabs(path, RESULT, out, slabs.ranges, self.world, write, **how)
            return
        with self.world.phase(f"writing {path}"):
            if self.world.rank == 0:
                with atomic_path(path) as temporary, new_file(temporary) as file:
                    self._write_head(file, product)
                    file.create_dataset(RESULT, data=out, **how)

    def _write_head(self, file: h5py.File, product: Product) -> None:
        write_header(file, FORMAT, VERSION, kind=product.kind)
        file.create_group("facts").attrs.update(self.run_identity)
        file[INPUTS] = product.inputs


def load_product(
    path: str | os.PathLike, product: Product | None = None, rows: tuple[int, int] | None = None
) -> np.ndarray:
    """Read the result of a product, or some rows of it.

    Raises
    ------
    InputError
        If the file is missing, cannot be read, contradicts itself or is not of that `product`.
    """
    with CheckedFile(path, WHAT) as file:
        check_header(file, FORMAT, VERSION)
        inputs, shape = file.dataset(INPUTS, "f")[()], getattr(file.object(RESULT), "shape", (0,))
        if product is not None and not product.fits(file.attributes().get("kind"), inputs, shape):
            file.refuse("it is the product of another block")
        start, stop = rows or (0, shape[0])
        found = finite(file, RESULT, read_rows(file, RESULT, shape, start, stop))
        if found.dtype not in (np.float32, np.float64):  # of this machine's byte order
            file.refuse(f"/{RESULT} has type {found.dtype}")
        return found
