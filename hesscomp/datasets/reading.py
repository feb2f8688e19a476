"""What to take of a file of rows, besides its features."""

from dataclasses import dataclass

from hesscomp.errors import InputError

MISSING = ("refuse", "drop", "level")


@dataclass(frozen=True)
class Reading:
    """What is asked of a file; see `load_dataset` for the fields.

    `labelled` says whether the rows have labels, `reference` whether the first level of each text
    column gets no feature. `usual_label` is the column of the labels where no `label` is asked for
    and a table has it; else that is the last one. `width` is the number of features that rows must
    have and `index_base` that of the first one, where a model knows them; of LIBSVM files the one
    is else that of the last index that occurs, and the other that of the first, at most 1. With
    `blank`, a value that a model's training data do not have makes NaN of its row, and no error.
    """

    label: str | None = None
    weights: str | None = None
    offset: str | None = None
    missing: str = "refuse"
    categories: tuple[str, ...] = ()
    reference: bool = False
    ignore: tuple[str, ...] = ()
    labelled: bool = True
    usual_label: str | None = None
    width: int | None = None
    index_base: int | None = None
    memory_map: bool = False
    blank: bool = False

    def __post_init__(self):
        if self.missing not in MISSING:
            raise InputError(f"missing must be one of {', '.join(MISSING)}, not {self.missing}")

    def columns(self) -> dict[str, str]:
        """Return the names of the columns of weights and offsets, where there are any."""
        named = {"weights": self.weights, "offsets": self.offset}
        return {what: name for what, name in named.items() if name is not None}
