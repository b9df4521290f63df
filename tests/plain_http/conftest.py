"""The chain's stack is used here, too; one sidecar for all tests of a module."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chain"))
