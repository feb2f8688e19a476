"""Jobs as requests of workflows: what a client may set, and what the service sets itself."""

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hesscomp.compression.counting import Machine
from hesscomp.compression.formats import LOW_RANK
from hesscomp.compression.options import SketchSizes
from hesscomp.compression.plan import METHODS, NUMBER
from hesscomp.errors import InputError
from hesscomp.influence.options import factor_rank
from hesscomp.options import Options, described, format_bytes, refuse_unknown, values
from hesscomp.problems.catalogue import NAMED_PROBLEMS
from hesscomp.service.wire import Value
from hesscomp.workflows.curvature import OPERATORS, CurvatureRequest
from hesscomp.workflows.planning import PlanRequest, plan
from hesscomp.workflows.subject import HeldOutRequest, ProblemRequest

NAMED_POINTS = ("zero", "initial")
TRAINED = "trained"
OWN = ("seed",)  # of the problem's options, what a job may set too
# What the service itself decides: files, points, and a run's folder.
DECIDED = (
    *("out", "json", "plot", "run", "save_every", "save_point", "model_out", "factor_out", "at"),
    *("factor", "tensorboard", "test"),
)
# What would make another problem than the service's, and what to do instead.
UNSERVED = {
    "newton": {
        "family": "the service fits logistic regression; run `hesscomp newton` for another family",
        "standardize": "the service's columns stay as they are; serve data that you have scaled, "
        "or run `hesscomp newton`",
    }
}
MORE = "take ranks with more memory"
REMEDIES = {
    "compress": "take a smaller `rank`, or a service of more ranks with `layout` rows",
    "spectrum": "take fewer `probes` or `steps`",
}
COPIES = 8  # of a large array that a rank holds while it works with it
FACTOR = "factor.h5"  # of the jobs that make one
FILES = re.compile(r"^[/~.]|\.\.|\.(npy|npz|h5|hdf5|keras|csv|json)$")


@dataclass(frozen=True, kw_only=True)
class ServedProblem(ProblemRequest, HeldOutRequest):
    """The problem of a service, fixed at its start."""


@dataclass(frozen=True)
class Kind:
    """A kind of job: the workflow, its request, and its files by the request's fields."""

    module: str
    request: str
    workflow: str
    files: dict[str, str]
    resumes: bool = False  # whether it keeps what it resumes from

    @property
    def options(self) -> type[Options]:
        """The class of the requests."""
        return self._of(self.request)

    @property
    def run(self) -> Callable:
        """The workflow."""
        return self._of(self.workflow)

    def _of(self, name: str):
        return getattr(importlib.import_module(f"hesscomp.workflows.{self.module}"), name)


NUMBERS = {"json": "numbers.json"}
KINDS = {
    "compress": Kind(
        "factors", "CompressRequest", "compress", {"out": FACTOR, **NUMBERS}, resumes=True
    ),
    "spectrum": Kind(
        "pictures", "SpectrumRequest", "spectrum", {"out": "spectrum.png", **NUMBERS}
    ),
    "sensitivity": Kind(
        "sensitivity", "SensitivityRequest", "find_sensitivity",
        {"out": "sensitivity.h5", "plot": "rows.png", **NUMBERS},
    ),
    "train": Kind("training", "TrainRequest", "train", {"save_point": "best.npy"}, resumes=True),
    "newton": Kind(
        "logistic", "NewtonRequest", "newton",
        {"factor_out": FACTOR, "plot": "convergence.png", **NUMBERS}, resumes=True,
    ),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """Return the kind of this name; InputError where there is none."""
    if name not in KINDS:
        raise InputError(f"{name[:60]!r} is no kind of job; take one of {', '.join(KINDS)}")
    return KINDS[name]


def settable(name: str) -> list[str]:
    """Return the options that a client may set."""
    fixed = {each.name for each in described(ServedProblem)} - set(OWN)
    names = [each.name for each in described(kind_of(name).options)]  # type: ignore[arg-type]  # mypy: classes have no hash
    fixed |= {*DECIDED, *UNSERVED.get(name, ())}
    return [each for each in names if each not in fixed]


def job_request(
    kind: str, options: dict[str, Value], served: ServedProblem, folder: Path, at: str | None
) -> Any:
    """Return the workflow's request of a job whose files are in `folder`, at a point.

    Raises
    ------
    InputError
        For options that the job does not have, out of range, or that name files.
    """
    about = kind_of(kind)
    if kind == "newton" and not _is_linear(served):
        raise InputError("a job newton fits linear models, which this service's problem is not")
    refuse_unknown(options, settable(kind), f"a job {kind}", UNSERVED.get(kind))
    known = {each.name: each for each in described(about.options)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and FILES.search(text):
                raise InputError(f"`{name}` {text[:60]!r}: a job takes no files by their names")
            if isinstance(text, int) and abs(text) >= 2**63:
                raise InputError(f"`{name}`: the number is too large")
        given[name] = tuple(value) if isinstance(value, list) else value
    problem = values(served, ServedProblem)
    if options.get("ridges"):  # which take the place of the problem's ridge
        problem.pop("ridge", None)
    given = {name: problem[name] for name in known if name in problem} | given
    if given.get("data", "") is None:  # of a named problem, where the workflow has no `problem`
        named = NAMED_PROBLEMS.get(served.problem or "")
        given["data"] = None if named is None else named.data
    given = {name: value for name, value in given.items() if not _unset(known[name], value)}
    given |= {field: str(folder / file) for field, file in about.files.items()}
    if about.resumes:
        given["run"] = str(folder / "run")
    if at is not None:
        if "at" not in known:
            raise InputError(f"a job {kind} starts at no point; leave `point` out")
        given["at"] = (at,) if known["at"].many else at
    return about.options(**given)


def check_memory(kind: str, request: Any, n: int, rows: int, ranks: list[dict[str, Any]]) -> None:
    """Refuse a job that takes more memory than its ranks have free, by the plan.

    The rank with the least counts, as it was when the ranks last said it. What is not known before,
    such as the columns that a tolerance takes, counts as the least that it can be.

    Raises
    ------
    InputError
        With both sizes.
    """
    free = min((rank["free_bytes"] for rank in ranks), default=None)
    if free is None:
        return
    sketch, basis = _least(kind, request, n)
    found = plan(
        PlanRequest(
            n=n, rows=rows, ranks=len(ranks), dtype=request.dtype or PlanRequest.dtype,
            memory_limit=getattr(request, "memory_limit", None), memory=free + Machine.program,
            **sketch,
        )
    ).memory  # fmt: skip
    parts = ("vectors", "product") if basis is not None else ("vectors", "sketch", "product")
    needed = sum(found[part] for part in parts) + (basis or 0.0)
    if needed > free:
        raise InputError(
            f"a job {kind} takes at least {format_bytes(needed)} on each rank by the plan, and "
            f"{format_bytes(free)} are free; {REMEDIES.get(kind, MORE)}"
        )


def _least(kind: str, request: Any, n: int) -> tuple[dict[str, Any], float | None]:
    """Return the options of the least sketch of a job; or of its products, and all it holds else.

    A tolerance may need a sketch of one rank more than the samples beyond it, and a format made of
    a tree sketches with more columns than the ranks of its nodes. A sensitivity makes a factor,
    and a spectrum keeps the bases of its Krylov spaces on every rank.
    """
    if kind == "spectrum":
        columns = min(request.probes * request.steps, n)
        return {"rank": min(request.probes, n), "oversample": 0}, float(NUMBER * n * columns)
    if kind == "train":
        return {"rank": 1, "oversample": 0}, 0.0
    if kind == "sensitivity":
        return {"rank": factor_rank(n), "layout": "replicated"}, None
    low_rank = getattr(request, "factor_format", LOW_RANK) == LOW_RANK
    method = request.method if request.method in METHODS and low_rank else "auto"
    sizes = values(request, SketchSizes) | {"rank": int(request.rank or 1)}
    return {**sizes, "which": request.which, "method": method}, None


def check_array_memory(size: int, ranks: list[dict[str, Any]]) -> None:
    """Refuse an array of `size` bytes that takes more memory than a rank has free.

    Raises
    ------
    InputError
        With both sizes.
    """
    most = most_array_bytes(ranks)
    if size > most:
        raise InputError(
            f"an array of {format_bytes(size)} takes about {format_bytes(COPIES * size)} on each "
            f"rank, and {format_bytes(COPIES * most)} are free; send fewer columns at a time"
        )


def most_array_bytes(ranks: list[dict[str, Any]]) -> float:
    """Return the size of the largest array that the ranks have memory to work with.

    On a rank are the array, what brought it, the product and its copies; a solve holds seven
    arrays of this size. While no rank has told its memory, any size will do.
    """
    return min((rank["free_bytes"] for rank in ranks), default=math.inf) / COPIES


def _is_linear(served: ServedProblem) -> bool:
    named = NAMED_PROBLEMS.get(served.problem or "")
    of_name = served.problem is None or (named is not None and named.network is None)
    return served.model is None and of_name


def _unset(option, value) -> bool:
    return value is None and not option.may_be_none


def check_operator(name: str) -> None:
    """Refuse the name of no operator by an InputError."""
    if name not in OPERATORS:
        raise InputError(
            f"operator {name[:60]!r}: there is none; take one of {', '.join(OPERATORS)}"
        )


def curvature_request(served: ServedProblem, operator: str) -> CurvatureRequest:
    """Return the request of an operator of the served problem."""
    check_operator(operator)
    return CurvatureRequest(**values(served, ProblemRequest), operator=operator)
