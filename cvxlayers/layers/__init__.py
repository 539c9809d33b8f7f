"""Ready-made maps: one idea per file, each with its definition, its source and its own derivative.

They are native maps, written against the array API, so that they run on the device of the caller and inside of compiled
code; but for `qp`, which is a map on the host, where the engine is. `functions` makes functions of them.
"""
