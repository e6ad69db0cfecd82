"""`python -m tests.faults.robustness`: see `run`."""

import sys

from tests.faults.robustness.run import main

sys.exit(main())
