"""`hesscomp doctor`: what this machine has, what is wrong with it, and what to do about that."""

from hesscomp.workflows.doctor import PROBLEM, DoctorRequest, Finding, doctor

EPILOG = (
    "Starts short processes of its own, at the end two ranks under mpiexec, and ends what does not "
    "answer. Exit status: 0 if there is no problem, else 1."
)


def run_doctor(request: DoctorRequest) -> int:
    problems = sum(found.state == PROBLEM for found in doctor(request, show))
    print(f"\n{problems or 'no'} problem{'s' * (problems != 1)}")
    return min(problems, 1)


def show(finding: Finding) -> None:
    """Print a finding, and below it the remedy."""
    print(f"{finding.state:8}{finding.part:12}{finding.text}", flush=True)
    if finding.remedy:
        print(f"{'':20}-> {finding.remedy}", flush=True)
