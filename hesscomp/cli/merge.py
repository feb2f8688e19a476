"""`hesscomp merge`: one trajectory file of the factors that several runs left."""

from hesscomp.workflows.merging import MergeRequest, merge

REQUEST = MergeRequest


def run(request: MergeRequest) -> int:
    made = merge(request)
    print(f"wrote trajectory: {request.out}: {made.points} points, n = {made.n}")
    return 0
