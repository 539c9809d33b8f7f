"""What the functions of the ready-made layers are tested with: a file for each group, and the same tests for all of them."""

import importlib
import pkgutil

from .case import Case

CASES: dict[str, Case] = {}
for info in pkgutil.iter_modules(__path__):
    if info.name != "case":
        CASES.update(importlib.import_module(f"{__name__}.{info.name}").CASES)
