"""The bridge's harness and the whole chain's serve here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "bridge"))
sys.path.append(str(Path(__file__).parents[1] / "chain"))
