"""The bridge's harness, in front of servers that speak one protocol era only."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "bridge"))
