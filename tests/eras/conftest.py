"""The harnesses of bridge and chain, in front of servers that speak one protocol era only."""

import sys
from pathlib import Path

for area in ("bridge", "chain"):
    sys.path.append(str(Path(__file__).parents[1] / area))
