"""Counts and gauges of a service in the text format that Prometheus reads."""

from hesscomp.service.front import Front


def metrics_text(front: Front) -> str:
    """Return all metrics."""
    lines: list[str] = []

    def tell(name: str, kind: str, what: str, values: dict[str, float]) -> None:
        lines.extend([f"# HELP hesscomp_{name} {what}", f"# TYPE hesscomp_{name} {kind}"])
        lines.extend(f"hesscomp_{name}{labels} {value}" for labels, value in values.items())

    counts = front.counts
    kinds = sorted({name for name in counts if " " not in name})
    tell(
        "requests_total", "counter", "Short requests to the ranks.",
        {f'{{kind="{kind}"}}': counts[kind] for kind in kinds},
    )  # fmt: skip
    tell(
        "blocks_total", "counter", "Blocks of requests that the ranks have done.",
        {f'{{kind="{kind}"}}': counts[f"{kind} blocks"] for kind in kinds},
    )  # fmt: skip
    tell(
        "columns_total", "counter", "Columns in these blocks.",
        {f'{{kind="{kind}"}}': counts[f"{kind} columns"] for kind in kinds},
    )  # fmt: skip
    tell(
        "busy_seconds_total", "counter", "Seconds that the ranks spent on them.",
        {f'{{kind="{kind}"}}': front.seconds[kind] for kind in kinds},
    )  # fmt: skip
    tell("waiting", "gauge", "Short requests without an answer.", {"": front.waiting})
    tell("waiting_bytes", "gauge", "Bytes of their arrays.", {"": front.room.taken})
    tell(
        "jobs", "gauge", "Jobs by state.",
        {f'{{state="{state}"}}': count for state, count in front.store.counts().items()},
    )  # fmt: skip
    tell("points", "gauge", "Points that are held.", {"": len(front.points.held)})
    tell("point_bytes", "gauge", "Bytes that they take.", {"": front.points.bytes})
    tell("restarts_total", "counter", "Times that the ranks ended unasked.", {"": front.restarts})
    tell(
        "rank_resident_bytes", "gauge", "Memory that a rank holds.",
        {f'{{rank="{each["rank"]}"}}': each["resident_bytes"] for each in front.about["ranks"]},
    )  # fmt: skip
    return "\n".join(lines) + "\n"
