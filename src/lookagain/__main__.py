"""`python -m lookagain`, which launchers need."""

from __future__ import annotations

import sys

from lookagain.cli import main

if __name__ == "__main__":
    sys.exit(main())
