"""An option: a dataclass field that carries its default, range, choices, help and unit.

The parsers of the command line, the checks of values and the JSON schema come from these fields.
Texts put a parameter in backquotes; the command line shows it as its flag.
"""

import difflib
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from inspect import get_annotations
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from hesscomp.errors import InputError

KEY = "option"  # of a field's metadata


@dataclass(frozen=True)
class Option:
    """The description of one option."""

    help: str | None = None  # a phrase; without one the field is checked, but no option for users
    unit: str | None = None  # of a number, such as "seconds"
    low: float | None = None  # the smallest value
    high: float | None = None  # the largest
    above: float | None = None  # a bound that is itself excluded
    below: float | None = None
    choices: tuple[str, ...] | None = None  # the values allowed
    metavar: str | None = None  # stands for the value in usage messages
    flag: str = ""  # by default `--name`; without dashes it is a positional argument
    also: str = ""  # a second flag for the same
    former: str = ""  # the flag in the last version, still accepted with a warning
    group: str | None = None  # the title under which help lists it; by default its class'
    about: str | None = None  # the text below that title
    one_of: str | None = None  # of the options with the same word here, one at most may be given
    advanced: bool = False  # whether only --help-all shows it
    parse: Callable[[str], Any] | None = None  # makes a value from a text, or raises InputError
    # Whether the command line must give it even where it has a default: a caller in Python has
    # the result in hand and need not name a file.
    required: bool = False
    unbounded: bool = False  # whether infinity is allowed
    may_be_empty: bool = False  # whether a tuple may be given without a value
    # From the field and its annotation:
    name: str = ""
    default: Any = None  # `dataclasses.MISSING` for none
    kinds: tuple[type, ...] = ()  # the types of a value
    many: bool = False  # whether the value is a tuple of such values
    may_be_none: bool = False

    def check(self, value) -> None:
        """Raise InputError for a value of another type or out of range."""
        if value is self.default or (value is None and self.may_be_none):
            return
        name = f"`{self.name}`"
        if self.many and not isinstance(value, tuple):
            raise InputError(f"{name} must be a tuple, not {value!r}")
        kinds = tuple(TYPES.get(kind, _class_of(kind)) for kind in self.kinds)
        for each in value if self.many else (value,):
            truth = isinstance(each, bool) and not {bool, Any} & set(self.kinds)  # no number here
            if truth or not isinstance(each, kinds):
                words = " or ".join(WORDS.get(kind, _named(kind)) for kind in self.kinds)
                raise InputError(f"{name} must be {words}, not {each!r}")
        if self.choices is not None and isinstance(value, str) and value not in self.choices:
            raise InputError(f"{name} must be one of {', '.join(self.choices)}, not {value}")
        for each in value if self.many else (value,):
            if isinstance(each, Real):
                self._check_number(name, each)

    def _check_number(self, name: str, value) -> None:
        given = [
            (f"{words} {_number(bound)}", holds(value, bound))
            for words, bound, holds in (
                ("at least", self.low, operator.ge),
                ("above", self.above, operator.gt),
                ("at most", self.high, operator.le),
                ("below", self.below, operator.lt),
            )
            if bound is not None
        ]
        finite = math.isfinite(value) or (self.unbounded and not math.isnan(value))
        if not finite or not all(holds for _, holds in given):
            words = " and ".join(words for words, _ in given) or "a finite number"
            raise InputError(f"{name} must be {words}, not {value}")


def _class_of(kind) -> type:
    """Return the class that a value of an annotation has; any, where it says none."""
    return kind if isinstance(kind, type) and kind is not Any else object


def _named(kind) -> str:
    name = getattr(kind, "__name__", str(kind))
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


TYPES: dict[type, Any] = {int: Integral, float: Real, str: (str, os.PathLike), bool: bool}
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
JSON = {int: "integer", float: "number", str: "string", bool: "boolean"}


def option(default=MISSING, **said):
    """Return a dataclass field with attributes of `Option`."""
    return field(default=default, metadata={KEY: Option(**said)})


def byte_size(**said):
    """Return a field with a number of bytes, None by default."""
    return option(None, above=0, unit="bytes", parse=parse_bytes, **said)


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


def _number(bound: float) -> str:
    return f"{bound:g}" if abs(bound) < 1e6 else f"{bound}"


class Options:
    """Base of frozen dataclasses whose fields are options; they compose by inheritance.

    A new instance refuses values out of range. Subclasses refuse contradictions in `_check`, and
    call the `_check` of their other parts.
    """

    GROUP: ClassVar[tuple[str | None, str | None]] = (None, None)

    def __init_subclass__(cls, group: str | None = None, about: str | None = None):
        if group is not None:
            cls.GROUP = (group, about)

    def __new__(cls, *_, **given):
        known = [each.name for each in fields(cls)]  # type: ignore[arg-type]  # it is a dataclass
        refuse_unknown(given, known, cls.__name__)
        return super().__new__(cls)

    def __post_init__(self):
        for each in described(type(self), told=False):
            each.check(getattr(self, each.name))
        self._check()

    def _check(self) -> None:
        given: dict[str, str] = {}
        for each in described(type(self)):  # type: ignore[arg-type]  # mypy: classes have no hash
            word = each.one_of
            if word is not None and getattr(self, each.name) != each.default:
                if word in given:
                    raise InputError(f"`{given[word]}` and `{each.name}`: give one of them")
                given[word] = each.name


@cache
def described(cls: type, told: bool = True) -> list[Option]:
    """Return the options of a class, those of its first part first, its own last.

    `told` leaves out the options that have no help.
    """
    there, hints = {part.name: part for part in fields(cls)}, get_type_hints(cls)
    owners: dict[str, type] = {}
    for base in (*cls.__mro__[1:], cls):
        own = getattr(base, "__dataclass_fields__", {})
        for name in get_annotations(base):
            if name in there and (name not in owners or own.get(name) is there[name]):
                owners[name] = base
    found = (_complete(there[name], hints[name], owner) for name, owner in owners.items())
    return [each for each in found if each.help is not None or not told]


def _complete(part: Field, hint, owner) -> Option:
    said = part.metadata.get(KEY, Option())
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    many = get_origin(hints[0]) is tuple
    kinds = (
        get_args(hints[0])[:1] if many else tuple(each for each in hints if each is not NoneType)
    )
    group, about = owner.GROUP if said.group is None else (said.group, None)
    return replace(
        said, name=part.name, default=part.default, kinds=kinds, many=many, group=group,
        about=about, may_be_none=NoneType in hints,
        required=said.required or part.default is MISSING,
        flag=said.flag or f"--{part.name.replace('_', '-')}",
    )  # fmt: skip


def values(options: Options, part: type) -> dict[str, Any]:
    """Return the values of the options of a part, by name."""
    return {each.name: getattr(options, each.name) for each in described(part)}


def option_of(part: type, name: str, **changed):
    """Return an option of another class as a field, for a class that cannot inherit it as it is."""
    found = next(each for each in described(part) if each.name == name)
    found = replace(found, **changed)
    return field(default=found.default, metadata={KEY: found})


def schema(cls: type) -> dict:
    """Return the JSON schema of a class of options: types, ranges, choices, defaults, help."""
    properties = {}
    for each in described(cls):
        bounds = {
            "enum": each.choices and list(each.choices),
            "minimum": each.low,
            "maximum": each.high,
            "exclusiveMinimum": each.above,
            "exclusiveMaximum": each.below,
        }
        types = [JSON[kind] for kind in each.kinds if kind in JSON]
        kind: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
        kind |= {name: bound for name, bound in bounds.items() if bound is not None}
        if each.many:
            kind = {"type": "array", "items": kind}
        kind["description"] = each.help if each.unit is None else f"{each.help}, in {each.unit}"
        if each.default not in (MISSING, None):
            kind["default"] = list(each.default) if each.many else each.default
        properties[each.name] = kind
    required = [each.name for each in described(cls) if each.default is MISSING]
    return {
        "title": cls.__name__,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@dataclass(frozen=True, kw_only=True)
class Seeded(Options, group="numbers"):
    """The seed of all that is random."""

    seed: int = option(0, low=0, high=2**32 - 1, metavar="S", help="seed of all random numbers")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was meant, most likely; None where none is like it."""
    bare = {each.strip("-"): each for each in names}
    asked = name.strip("-").lower()
    longer = [
        each
        for each in bare
        if min(len(each), len(asked)) > 2 and (each.startswith(asked) or asked.startswith(each))
    ]
    for among, likeness in ((bare, 0.8), (longer, 0.0), (bare, 0.6)):
        found = difflib.get_close_matches(asked, among, n=1, cutoff=likeness)
        if found:
            return bare[found[0]]
    return None


def refuse_unknown(
    given: Iterable[str], known: Iterable[str], of: str, instead: Mapping[str, str] | None = None
) -> None:
    """Raise InputError for a name that is not known, with what was meant.

    `instead` has remedies for names that people bring from elsewhere; of others the nearest known
    one is named.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = nearest(name, known)
            meant = f"did you mean `{near}`?" if near else f"it has {', '.join(known)}"
            raise InputError(f"{of} has no option `{name}`; {(instead or {}).get(name, meant)}")


def refuse(options, names: tuple[str, ...], what: str) -> None:
    """Refuse options that are given although they would change nothing."""
    for name in names:
        value = getattr(options, name, None)
        if value is not False and value not in (None, ()):
            raise InputError(f"`{name}` does not go with {what}")
