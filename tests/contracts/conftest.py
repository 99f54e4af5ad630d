"""Imports the tiny models and reference files of other packages' tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("lm", "convert")]
