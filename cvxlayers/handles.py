"""What stands for a map in the graphs and caches of a framework, and for the same layer with the options of one call."""

from __future__ import annotations

import uuid

from .diffmap import DiffMap
from .errors import ProblemError
from .informed import InformedLayer

_MAX_VARIANTS = 16


def check_map(diffmap):
    """Raise ProblemError for what is no DiffMap."""
    if not isinstance(diffmap, DiffMap):
        found = f"the class {diffmap.__name__}" if isinstance(diffmap, type) else f"a {type(diffmap).__name__}"
        raise ProblemError(f"lift got {found}; expected an instance of a subclass of cvxlayers.DiffMap")


class Handle:
    """A map with the key that stands for it in graphs and caches: equal maps have equal keys, in every process.

    variants: the same layer with other options, by those of a call.
    """

    def __init__(self, diffmap):
        check_map(diffmap)
        self.map, self.key = diffmap, diffmap.fingerprint() or uuid.uuid4().hex
        self.variants: dict[str, Handle] = {}

    def __reduce__(self):
        return type(self), (self.map,)

    def variant(self, solver_args=None, on_error=None, informed=False, warm=False):
        """The handle for a call with these options on top; informed: its map is an `InformedLayer`, perhaps a warm one."""
        if not solver_args and on_error is None and not informed:
            return self
        if solver_args is not None and not isinstance(solver_args, dict):
            raise ProblemError(f"solver_args is a {type(solver_args).__name__}; expected a dictionary of options")
        name = repr((sorted((solver_args or {}).items(), key=str), on_error, informed, warm))
        if name not in self.variants:
            if len(self.variants) == _MAX_VARIANTS:
                self.variants.pop(next(iter(self.variants)))
            other = self.map if not solver_args and on_error is None else self.map.with_options(solver_args, on_error)
            self.variants[name] = type(self)(InformedLayer(other, warm) if informed else other)
        return self.variants[name]
