"""`python -m nutproxy` is the command `nutproxy`."""

import sys

from nutproxy.cli import main

sys.exit(main())
