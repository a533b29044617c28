"""`python -m tests.nemesis`."""

import sys

from tests.nemesis.main import main

sys.exit(main(sys.argv[1:]))
