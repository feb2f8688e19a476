"""Parsers made of classes of options, and requests made of what they have parsed."""

import argparse
import re

from hesscomp.errors import InputError
from hesscomp.options import Option, Options, described


def add_arguments(parser: argparse.ArgumentParser, request: type[Options]) -> None:
    """Give a parser the options of a request, in groups by their titles."""
    titles = flags(request)
    groups: dict = {None: parser}
    choices: dict = {}
    for each in described(request):
        if each.group not in groups:
            text = each.group_text and as_written(each.group_text, titles)
            groups[each.group] = parser.add_argument_group(each.group, text)
        group, word = groups[each.group], each.about.one_of
        if word is not None:
            if word not in choices:
                choices[word] = group.add_mutually_exclusive_group()
            group = choices[word]
        group.add_argument(each.flag, **_how(each, titles))


def _how(each: Option, titles: dict[str, str]) -> dict:
    about = each.about
    text = as_written(about.help, titles)
    if about.unit is not None and about.parse is None:
        text = f"{text}, in {about.unit}"
    how: dict = {"help": text.replace("%", "%%")}
    positional = not each.flag.startswith("-")
    if not positional:
        how |= {"dest": each.name, "required": each.required}
        how["default"] = None if each.required or each.default == () else each.default
    if each.kind is bool:
        return how | {"action": "store_true", "default": False}
    if about.metavar is not None:
        how["metavar"] = about.metavar
    if each.many:
        how["nargs"] = "*" if about.may_be_empty else "+"
    if about.choices is not None:
        how["choices"] = about.choices
    elif about.parse is not None:
        how["type"] = _parser_of(about.parse)
    else:
        how["type"] = each.kind
    return how


def _parser_of(parse):
    def parsed(text: str):
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def request_from(options: argparse.Namespace, request: type[Options]) -> Options:
    """The request that a command line makes; InputError where its options do not go together.

    The words that follow after a `--` are its `command`.
    """
    words = getattr(options, "words", None)
    given = {} if words is None else {"command": tuple(words)}
    for each in described(request):
        value = getattr(options, each.name)
        if isinstance(value, list):
            value = tuple(value)
        if value is not None or each.default is None:
            given[each.name] = value
    try:
        return request(**given)
    except InputError as error:
        raise type(error)(as_written(str(error), flags(request))) from error


def flags(request: type[Options]) -> dict[str, str]:
    """How each of a request's options is written on the command line."""
    return {
        each.name: each.flag if each.flag.startswith("-") else each.about.metavar or each.name
        for each in described(request)
    }


def as_written(text: str, written: dict[str, str]) -> str:
    """A text whose parameters, in backquotes, are shown as the command line has them."""
    return re.sub(r"`(\w+)`", lambda found: written.get(found[1], found[0]), text)
