"""Whether what a file holds has the names, types and shapes that are expected of it."""

from collections.abc import Mapping

import numpy as np


def schema_mismatch(found: Mapping, expected: Mapping, place: str) -> str | None:
    """Return why what was found cannot stand in for `expected`; None where it can.

    Parameters
    ----------
    found, expected : mapping of str to array, number or text
        Each expected name must be found. An array must have the same type and shape and finite
        entries. A number must be a number, finite where the expected one is. A length of 0 stands
        for one that is not known beforehand; it is the same wherever it occurs. Texts are not
        compared.
    place : str
        Where it was found, for the message.
    """
    unknown = set()
    for name, like in expected.items():
        where, value = f"{place}/{name}", found.get(name)
        if value is None:
            return f"{where} is missing"
        if isinstance(like, np.ndarray):
            shape, kind = np.shape(value), getattr(value, "dtype", None)
            if kind != like.dtype or not _fits(shape, like.shape):
                wanted = ", ".join(str(want or "any") for want in like.shape)
                return (
                    f"{where} has shape {shape} and type {kind}, expected ({wanted}) {like.dtype}"
                )
            unknown |= {have for have, want in zip(shape, like.shape, strict=True) if want == 0}
            if not np.isfinite(value).all():
                return f"{where} holds numbers that are not finite"
        elif not isinstance(like, str):
            if not isinstance(value, int | float):
                return f"{where} is not a number"
            if np.isfinite(like) and not np.isfinite(value):
                return f"{where} is {value}, not finite"
    if len(unknown) > 1:
        return f"{place} holds arrays of lengths {sorted(unknown)} where they must be the same"
    return None


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in (0, have) for have, want in zip(shape, wanted, strict=True)
    )
