"""The smallest custom maps: x -> x^3."""

from array_api_compat import array_namespace

from cvxlayers import DiffMap, Saved


class Cube(DiffMap):
    """Without second derivatives."""

    in_sizes, out_sizes, saved = (3,), (3,), (Saved(3, (0,)),)

    def forward(self, x):
        return (x**3,), (x,)

    def jvp(self, saved, t):
        return (3 * saved[0] ** 2 * t,)

    vjp = jvp


class SmoothCube(Cube):
    """With second derivatives, on the host or native."""

    second_order = True

    def __init__(self, native):
        self.native = native

    def forward(self, x):
        xp = array_namespace(x)
        return (xp.sign(x) * xp.abs(x) ** 3,), (x,)

    def jvp2(self, saved, s, t):
        return (6 * saved[0] * s[0] * t[0],)

    vjp2 = jvp2


class Product(DiffMap):
    """(a, b) -> a b, entry by entry: each input is saved with its own batch dimensions."""

    second_order = True
    in_sizes, out_sizes, saved = (3, 3), (3,), (Saved(3, (0,)), Saved(3, (1,)))

    def __init__(self, native):
        self.native = native

    def forward(self, a, b):
        return (a * b,), (a, b)

    def jvp(self, saved, da, db):
        return (saved[1] * da + saved[0] * db,)

    def vjp(self, saved, c):
        return (saved[1] * c, saved[0] * c)

    def jvp2(self, saved, s, t):
        return (s[0] * t[1] + s[1] * t[0],)

    def vjp2(self, saved, t, c):
        return (t[1] * c[0], t[0] * c[0])
