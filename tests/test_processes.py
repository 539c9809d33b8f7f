"""Layers in processes that are spawned or forked, in the workers of a DataLoader, and in distributed training."""

import subprocess
import sys
from pathlib import Path

import pytest

from . import processes


@pytest.mark.parametrize("framework", processes.WAYS)
def test_spawn(framework):
    processes.spawn(framework)


def test_forks():
    """One interpreter for all: most of the time goes into importing torch."""
    names = ("fork", "fork_while_threads_work", "fork_with_a_lock_held", "loader", "distributed")
    command = [sys.executable, "-m", "tests.processes", *names]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
