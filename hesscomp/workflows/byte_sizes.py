"""Read and write numbers of bytes such as 2G."""

import re

from hesscomp.errors import InputError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> float:
    """Return the number of bytes in a text such as 2G, 500M or 1073741824 (powers of 1024)."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not found or not 0 < float(found[1]) < 1e280:
        raise InputError(f"{text}: is not a number of bytes; give one such as 500M or 2G")
    return float(found[1]) * UNITS[found[2].upper()]


def format_bytes(size: float) -> str:
    """Return a number of bytes as text, such as 1.5 GiB."""
    unit = max((name for name in UNITS if UNITS[name] <= max(size, 1)), key=UNITS.__getitem__)
    return f"{size / UNITS[unit]:.3g} {unit}{'iB' if unit else 'B'}"
