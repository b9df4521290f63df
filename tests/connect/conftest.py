"""The bridge's own harness and servers, and the chain's stack, are used here, too."""

import sys
from pathlib import Path

for area in ("bridge", "chain"):
    sys.path.append(str(Path(__file__).parents[1] / area))
