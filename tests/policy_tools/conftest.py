"""The store and the sink are those of the sink's own tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "sink"))
