"""Set before any test module imports a library: no test reaches for a hub."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
