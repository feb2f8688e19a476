"""`hesscomp page`: print the address of a service's page."""

import platform
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hesscomp.client import where
from hesscomp.options import Options, option

PORT = 8000  # of the tunnel that is proposed, unless told
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class PageRequest(Options, group="service"):
    """Which service's page to open, and by which port of the browser's computer."""

    folder: str = option(flag="folder", metavar="FOLDER", help="the service's folder")
    local_port: int = option(
        PORT,
        low=1,
        high=65535,
        metavar="PORT",
        help="port for a tunnel by ssh, where one is needed",
    )


def run_page(request: PageRequest) -> int:
    """Print the address, with the token in the fragment, which browsers send to nobody."""
    folder = Path(request.folder)
    known = where(folder)
    token = (folder / "token").read_text().strip()
    url, host, port = known["url"], known["host"], request.local_port
    there = None  # what a tunnel leads to
    if url is None:
        there = known["socket"]
    elif host != platform.node() and urlsplit(url).hostname in LOOPBACK:
        there = f"127.0.0.1:{urlsplit(url).port}"
    if there is not None:
        print("run this on the computer with the browser, and let it run:")
        print(f"ssh -N -L {port}:{there} {host}")
        if url is None:
            print("(or start the service with --port 0, for browsers of its own host)")
        print("then open this address there:")
        url = f"http://127.0.0.1:{port}"
    print(f"{url}/#token={token}")
    return 0
