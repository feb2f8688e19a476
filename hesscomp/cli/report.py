"""`hesscomp report`: a page about a factor."""

import argparse
from pathlib import Path

from hesscomp.errors import InputError
from hesscomp.storage.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.h5", help="a factor file")
    parser.add_argument("--out", required=True, metavar="R.html", help="the page, in one file")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before any work."""
    if Path(options.out).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{options.out}: a page ends in .html; name it so")


def run(options: argparse.Namespace) -> int:
    check(options)
    check_writable(options.out)
    from hesscomp.analysis.report import write_page
    from hesscomp.factors import load_factor

    write_page(load_factor(options.file), options.out, Path(options.file).name)
    print(f"wrote {options.out}")
    return 0
