"""Newton-type optimizers."""

import re
from functools import cache
from pathlib import Path

NAME = re.compile(r'^    name = "([a-z-]+)"$', re.MULTILINE)


def optimizer_names() -> tuple[str, ...]:
    """Return the names of all optimizers, read from their files: importing them takes seconds."""
    return tuple(name for names in names_by_module().values() for name in names)


@cache
def names_by_module() -> dict[str, list[str]]:
    """Return the names of the optimizers in each module of the package that has any."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = {file.stem: NAME.findall(file.read_text()) for file in files}
    return {module: names for module, names in found.items() if names}
