"""`hesscomp spectrum`: the spectral density of a Hessian at a point."""

from hesscomp.cli.session import Session
from hesscomp.cli.tables import spectrum_table
from hesscomp.workflows.density import SpectrumRequest, SpectrumResult, spectrum

REQUEST = SpectrumRequest


def run(request: SpectrumRequest, session: Session) -> int:
    def table(result: SpectrumResult) -> str:
        return spectrum_table(result, request.shift)

    spectrum(request, session.world, session.showing({SpectrumResult: table}))
    return 0
