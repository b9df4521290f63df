"""The chain's stack between the official suite and what it tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chain"))
