"""`hesscomp repack`: one file of a factor whose rows lie in slabs."""

import argparse

from hesscomp.factors import load_factor, save_factor
from hesscomp.storage.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="a factor file")
    parser.add_argument("--out", metavar="G.h5", help="the new file; default: F.h5 itself")
    parser.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64", help="of the eigenvectors"
    )
    parser.add_argument("--compress", action="store_true", help="deflate the eigenvectors")


def run(options: argparse.Namespace) -> int:
    out = options.out or options.file
    check_writable(out)
    factor = load_factor(options.file)
    save_factor(factor, out, dtype=options.dtype, compress=options.compress)
    print(f"wrote {out}: n = {factor.n}, rank {factor.rank}, in one file")
    return 0
