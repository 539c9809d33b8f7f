"""One cone per file; `ProductCone` puts them together. Nothing here knows about problems, solvers or frameworks."""

from .base import Cone, Spectrum
from .exp import Exp
from .nonneg import NonNeg
from .power import Power
from .product import ProductCone
from .psd import PSD
from .soc import SOC
from .zero import Zero

__all__ = ["PSD", "SOC", "Cone", "Exp", "NonNeg", "Power", "ProductCone", "Spectrum", "Zero"]
