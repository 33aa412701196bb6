"""`python -m look_again`, which launchers need."""

from __future__ import annotations

import sys

from look_again.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
