"""`python -m labhelpers`: the command line."""

import sys

from labhelpers.cli import main

sys.exit(main())
