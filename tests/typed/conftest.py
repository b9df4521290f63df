"""The chain's stack, and the bridge's harness, for clients of the typed service."""

import sys
from pathlib import Path

for name in ("chain", "bridge", "eras"):
    sys.path.append(str(Path(__file__).parents[1] / name))
