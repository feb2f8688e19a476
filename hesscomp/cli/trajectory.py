"""A trajectory: a factor at each of several points, each sketch started from the last factor."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hesscomp.cli.curvature import curvature_at, read_point, sampled
from hesscomp.cli.options import factor_request
from hesscomp.cli.progress import Progress
from hesscomp.cli.session import Session, seconds_since
from hesscomp.cli.subject import load_subject
from hesscomp.compression import compress
from hesscomp.errors import InputError
from hesscomp.factors import Factor, trajectory_writer
from hesscomp.parallel.layout import Replicated
from hesscomp.runs.report import write_json

HEADER = (
    f"{'point':<28} {'rank':>5} {'eigenvalue 1':>13} {'error':>9} {'columns':>8} {'seconds':>8}"
)


def compress_trajectory(points: list[str], rank: int | None, options, session: Session) -> int:
    """Compress at each point and write one file; returns the exit status."""
    if options.save_point is not None:
        raise InputError("--save-point goes with one point, not with a trajectory")
    with session.world.ledger.timed("startup"):
        subject = load_subject(options, session)
        problem = sampled(subject.problem, options)
    startup = seconds_since(session.started)
    session.say(HEADER)
    rows, factor = [], None
    request = factor_request(rank, options)
    # Journals go when the file is written: they are the outer context.
    with ExitStack() as journals, _Writer(options.out, session) as writer:
        for number, point in enumerate(points):
            x = read_point(point, subject, options, session)
            curvature = curvature_at(x, problem, options)
            folder = None if options.run is None else Path(options.run) / f"point-{number:04d}"
            operator = journals.enter_context(curvature.journaled(folder, request))
            with session.world.ledger.timed("compress"), Progress(session, "product columns"):
                factor = _next(operator, factor, request)
            label = Path(point).name
            writer.add(label, curvature.describe(factor))
            rows.append(_row(label, factor))
            session.say(_line(rows[-1]))
    session.say(f"wrote trajectory: {options.out}")
    ledger = session.world.ledger.as_dict()
    report = {
        "command": options.command,
        "points": rows,
        "ranks": session.world.size,
        "threads_per_rank": session.threads,
        "seconds": {"startup": startup, "solve": ledger["seconds"]["compress"]},
        "ledger": ledger,
    }
    session.write("report", options.report, lambda path: write_json(path, report))
    missed = [row["point"] for row in rows if not row["converged"]]
    if missed:
        session.say(f"tolerance NOT reached at {', '.join(missed)}; take a larger --max-rank")
    return 3 if missed else 0


def _next(operator, last: Factor | None, request: dict) -> Factor:
    factor = compress(operator, start=last, **request)
    if last is None or factor.provenance.method == "dense":
        return factor
    method = f"{factor.provenance.method} started from the factor before"
    return replace(factor, provenance=replace(factor.provenance, method=method))


def _row(label: str, factor: Factor) -> dict:
    return {
        "point": label,
        "rank": factor.rank,
        "eigenvalues": factor.eigenvalues,
        "relative_error": factor.certificate.relative_error,
        "converged": factor.certificate.converged,
        "columns": factor.provenance.columns,
        "seconds": factor.provenance.seconds,
    }


def _line(row: dict) -> str:
    largest = row["eigenvalues"][0] if row["rank"] else 0.0
    return (
        f"{row['point']:<28} {row['rank']:5d} {largest:13.6g} {row['relative_error']:9.2e} "
        f"{row['columns']:8d} {row['seconds']:8.2f}"
    )


class _Writer:
    """Rank 0's `trajectory_writer`; all ranks learn if it fails."""

    def __init__(self, path, session: Session):
        self.path, self.session = path, session
        self.stack = ExitStack()

    def __enter__(self) -> "_Writer":
        with self.session.world.phase(f"writing {self.path}"):
            if self.session.is_root:
                self.write = self.stack.enter_context(trajectory_writer(self.path))
        return self

    def add(self, label: str, factor: Factor) -> None:
        whole = factor.in_layout(Replicated(factor.n))
        with self.session.world.phase(f"writing {self.path}"):
            if self.session.is_root:
                self.write(label, whole)

    def __exit__(self, *failure) -> None:
        if failure[0] is not None:  # nothing is written, and nobody waits for anybody
            self.stack.__exit__(*failure)
            return
        with self.session.world.phase(f"writing {self.path}"):
            self.stack.close()
