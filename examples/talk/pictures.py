"""How the pictures of the talk look, and who gets to see them."""

from pathlib import Path

import matplotlib.pyplot as plt

plt.style.use(Path(__file__).resolve().parents[1] / "style.mplstyle")


def show():
    """plt.show, unless there is nothing to show pictures on."""
    if plt.get_backend().lower() == "agg":
        plt.close("all")
    else:
        plt.show()
