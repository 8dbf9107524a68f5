"""`python -m subpop` is the `subpop` command."""

import sys

from subpop.cli import main

sys.exit(main())
