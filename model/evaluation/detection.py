"""Real or fake: what a detection protocol's rows say of each fake source, seen or not.

Every fake source is compared with the test reals of the same shard set, so that "always fake" cannot win.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .evaluate import Outputs
from .scores import auroc

REAL, FAKE = 0, 1  # labels of a detection protocol


def detection_table(seen: Outputs, unseen: Outputs) -> dict[str, Any] | None:
    """AUC and balanced accuracy per fake source and their means over seen and unseen ones; None without real test rows.

    The score is the logit of fake minus that of real; a row is called fake above 0.
    """
    rows = {"seen": seen, "unseen": unseen}
    scores = {part: outputs.logits[:, FAKE] - outputs.logits[:, REAL] for part, outputs in rows.items()}
    reals = np.concatenate([scores[part][rows[part].labels == REAL] for part in rows])
    if not len(reals):
        return None
    specificity = float((reals <= 0).mean())
    document: dict[str, Any] = {"n_real": len(reals), "real_accuracy": specificity, "sources": {}}
    for part, outputs in rows.items():
        names = np.array(outputs.generators)
        for source in sorted(set(names[outputs.labels == FAKE])):
            fakes = scores[part][names == source]
            document["sources"][str(source)] = {
                "part": part,
                "n": len(fakes),
                "auc": auroc(fakes, reals),
                "accuracy": float((fakes > 0).mean()),
                "balanced_accuracy": (float((fakes > 0).mean()) + specificity) / 2,
            }
        values = [facts for facts in document["sources"].values() if facts["part"] == part]
        for figure in ("auc", "balanced_accuracy"):
            mean = float(np.mean([facts[figure] for facts in values])) if values else None
            document[f"{part}_{figure}"] = mean
    document["always_fake"] = {"auc": 0.5, "balanced_accuracy": 0.5}
    return document
