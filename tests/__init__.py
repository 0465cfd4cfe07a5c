"""Tests mirror the packages: `handdata/rows/decisions.py` is tested in `tests/handdata/rows/test_decisions.py`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"  # exists on some machines only
