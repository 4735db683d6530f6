"""Run the verifier with `python -m solblom_verify`."""

import sys

from solblom_verify.cli import main

sys.exit(main())
