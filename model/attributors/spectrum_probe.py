"""Log-spectrum probe: logistic regression over the mean high-passed power spectrum (Frank et al. 2020, 2003.08685).

Expected on the embedded dataset: about 69 % of 300 seen validation images.
Command: bmrl-train --attributor spectrum-probe --shards demo/shards --out demo/spectrum-probe --protocol demo-1 --preset demo
"""

from __future__ import annotations

from ..attributor import Spec
from ..classifier import FITTED_SEMANTICS
from .srm_probe import PRESETS, Config, SrmProbe


class SpectrumProbe(SrmProbe):
    """As SrmProbe, over 64 x 33 frequencies."""

    feature = "log-spectrum"


SPEC = Spec(config=Config, presets=PRESETS, semantics=FITTED_SEMANTICS, attributor=SpectrumProbe)
