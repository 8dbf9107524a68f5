"""`python -m subpop` is the `subpop` command."""

import sys

from subpop.session.cli import main

sys.exit(main())
