"""The C interface of the native engine takes no harm from malformed arguments: an error code, never a crash."""

import subprocess
import sys
from pathlib import Path

import pytest

from cvxlayers import native

CASES = 800


@pytest.mark.skipif(not native.available(), reason="the native engine has not been built")
def test_malformed_calls_get_an_error_code():
    command = [sys.executable, "-m", "tests.native_calls", "0", str(CASES)]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr[-3000:]
    made, refused, calls = map(int, found.stdout.split())
    assert made >= CASES / 3 and refused >= CASES / 4 and calls >= CASES / 4  # it does try both
