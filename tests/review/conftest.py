"""The harnesses of the bridge and of its areas serve here too."""

import sys
from pathlib import Path

for area in ("bridge", "protect", "eras", "frames"):
    sys.path.append(str(Path(__file__).parents[1] / area))
