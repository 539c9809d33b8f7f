"""Every code block of the README runs, in order, in one session; its links lead somewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)


def test_python_blocks(capsys):
    session = {}
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "README.md", "exec"), session)
    printed = capsys.readouterr().out.strip()
    promised = re.findall(r"print\(error\)\s+# (.*)", TEXT)
    assert printed in promised
    assert session["probabilities"].shape == (8, 4)
    assert session["price"].shape == ()


@pytest.mark.parametrize(
    "command", [line.split("#")[0].split() for k, code in BLOCKS if k == "bash" for line in code.splitlines()]
)
def test_commands_exist(command):
    assert command[0] == "make"
    subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "link", re.findall(r"\]\((?!http)([^)]+)\)", TEXT) + re.findall(r"`((?:benchmarks|examples)/\w+\.py)`", TEXT)
)
def test_links(link):
    assert (ROOT / link).exists()
