"""The running stack is the chain tests' own."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chain"))
