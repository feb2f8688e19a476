"""Make parsers from classes of options, and requests from what they have parsed."""

import argparse
import itertools
import logging
import re
from collections.abc import Container, Mapping
from typing import TypeVar

from hesscomp.cli.parser import Parser
from hesscomp.errors import InputError
from hesscomp.options import Option, Options, described

Request = TypeVar("Request", bound=Options)


def add_arguments(parser: Parser, request: type) -> dict[str, str]:
    """Add the options of a request to a parser, grouped by their titles; return their `flags`."""
    titles = flags(request)
    groups: dict = {None: parser}
    choices: dict = {}
    for each in described(request):
        title = each.group if each.flag.startswith("-") else None
        if title not in groups:
            text = each.about and as_written(each.about, titles)
            groups[title] = parser.add_argument_group(title, text)
        group, word = groups[title], each.one_of
        if word is not None and word not in choices:
            choices[word] = group.add_mutually_exclusive_group()
        group = choices.get(word, group)
        group.add_argument(*filter(None, (each.flag, each.also)), **_how(each, titles))
        if each.advanced:
            parser.advanced.add(each.name)
    return titles


def _how(each: Option, titles: dict[str, str]) -> dict:
    text = as_written(each.help or "", titles)
    if each.unit is not None and each.parse is None:
        text = f"{text}, in {each.unit}"
    how: dict = {"help": text.replace("%", "%%")}
    if each.flag.startswith("-"):
        default = None if each.required or each.many else each.default
        how |= {"dest": each.name, "required": each.required, "default": default}
    if each.kinds == (bool,):
        return how | {"action": "store_true"}
    if each.metavar is not None:
        how["metavar"] = each.metavar
    if each.many:
        how |= {"nargs": "*" if each.may_be_empty else "+", "action": "extend"}
    if each.choices is not None:
        return how | {"choices": each.choices}
    return how | {"type": each.kinds[0] if each.parse is None else _parser_of(each.parse)}


def _parser_of(parse):
    def parsed(text: str):
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def request_from(options: argparse.Namespace, request: type[Request]) -> Request:
    """The request that a command line makes; InputError where its options do not go together.

    The words after a `--` become its `command`.
    """
    words = getattr(options, "words", None)
    given = {} if words is None else {"command": tuple(words)}
    for each in described(request):  # type: ignore[arg-type]  # mypy: classes have no hash
        value = getattr(options, each.name)
        if isinstance(value, list):
            value = tuple(value)
        if value is not None or each.default is None:
            given[each.name] = value
    try:
        return request(**given)
    except InputError as error:
        raise type(error)(as_written(str(error), flags(request))) from error


def with_new_names(
    words: list[str], former: dict[str, str], choices: Mapping[str, Container[str]]
) -> tuple[list[str], list[str]]:
    """Return the words with options under their new names, and a warning for each old name.

    Parameters
    ----------
    words : list of str
    former : dict
        The new names by the old ones.
    choices : dict
        The values that options may have, where they are listed. An old name that another option has
        now counts as old with values of the option that had it.
    """
    new, old = [], []
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, sign, value = word.partition("=")
        now = former.get(name)
        if now and (name not in choices or (value if sign else following) in choices[now]):
            old.append(name)
            word = now + sign + value
        new.append(word)
    return new, [f"{name} is now {former[name]}; the next version refuses {name}" for name in old]


def warn_of_old_names(options: argparse.Namespace) -> None:
    """Warn of options that were given under the names of the last version."""
    for text in getattr(options, "renamed", ()):
        logging.getLogger(__name__).warning(text)


def flags(request: type) -> dict[str, str]:
    """Return how each of a request's options is written on the command line."""
    return {
        each.name: each.flag if each.flag.startswith("-") else each.metavar or each.name
        for each in described(request)
    }


def as_written(text: str, written: dict[str, str]) -> str:
    """Return a text with its parameters (in backquotes) written as on the command line."""
    return re.sub(r"`(\w+)`", lambda found: written.get(found[1], found[0]), text)
