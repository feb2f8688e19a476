"""`hesscomp merge`: one trajectory file of the factors that several runs left."""

import argparse
from pathlib import Path

from hesscomp.errors import InputError
from hesscomp.factors import load_factor, trajectory_writer
from hesscomp.storage.files import check_writable, find_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="F.h5", help="factor files, or a pattern")
    parser.add_argument("--out", required=True, metavar="T.h5", help="the trajectory file")


def run(options: argparse.Namespace) -> int:
    check_writable(options.out)
    files, n = find_files(options.files, "merge"), None
    with trajectory_writer(options.out) as add:
        for file in files:
            factor = load_factor(file)
            if n not in (None, factor.n):
                raise InputError(f"{file}: has n = {factor.n}, but {files[0]} has n = {n}")
            n = factor.n
            add(Path(file).stem, factor)
    print(f"wrote trajectory: {options.out}: {len(files)} points, n = {n}")
    return 0
