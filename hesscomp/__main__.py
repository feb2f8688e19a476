"""``python -m hesscomp`` is the `hesscomp` command."""

import sys

from hesscomp.cli.main import main

sys.exit(main())
