"""What only some problems can do, by name: a problem declares it, and callers ask for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """Something that a problem may offer beyond objective, gradient and Hessian.

    A problem that has it names it in `Problem.capabilities` and has its members. New ones need no
    registration: make one, declare it, and ask for it with `Problem.can` or `Problem.require`.

    Attributes
    ----------
    name : str
    members : tuple of str
        The methods and attributes of a problem that has it.
    remedy : str
        What to do about a problem that lacks it; the end of an error message.
    """

    name: str
    members: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        return self.name

    @property
    def needs(self) -> str:
        """Its members, in words."""
        return " and ".join(self.members)


INITIAL_POINT = Capability("initial point", ("initial",), "start from zero or from a file")
SAMPLING = Capability("sampling", ("sampled",), "use all rows")
MARGINS = Capability(
    "margins",
    ("margins", "known_margins", "evaluate", "losses_along", "curvature_at", "shard"),
    "its margins are computed anew at each point",
)
