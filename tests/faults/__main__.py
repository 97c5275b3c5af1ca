"""`python -m tests.faults` runs the fault table and prints its figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__).parent), "-q", "-m", "fault", "-n", "auto", *sys.argv[1:]]))
