"""``python -m hesscomp`` is the `hesscomp` command."""

import sys

from hesscomp.cli.guard import main

sys.exit(main())
