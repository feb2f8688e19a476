"""Modules by their names in the last version, which still import, with a warning."""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MODULES = {
    "hesscomp.curvature.operator": "hesscomp.operators.operator",
    "hesscomp.curvature.shard": "hesscomp.curvature.sharded",
    "hesscomp.estimators.results": "hesscomp.estimators.sampling",
    "hesscomp.runs.ledger": "hesscomp.parallel.ledger",
}


class _Former(MetaPathFinder, Loader):
    def find_spec(self, fullname, path, target=None):
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module):
        now = MODULES[module.__name__]
        warnings.warn(
            f"the module {module.__name__} is now {now}; the next version has only that",
            DeprecationWarning,
            stacklevel=2,
        )
        names = vars(import_module(now)).items()
        vars(module).update({name: value for name, value in names if not name.startswith("__")})


def install() -> None:
    """Let the former names import; asked only for modules that there are not."""
    sys.meta_path.append(_Former())
