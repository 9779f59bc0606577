"""Every attributor as narrow as it gets: overrides of preset demo."""

from __future__ import annotations

from typing import Any

TOWER = {"model.width": 0.1, "model.depth": 0.1}
MAPS = {
    "model.dim": 16, "model.depth": 1, "model.heads": 2, "model.mlp": 16, "model.widths": (4, 4, 4, 4, 8),
    "model.noise_widths": (4, 4, 4), "model.text_depth": 1, "model.text_heads": 2, "model.text_mlp": 16,
}  # fmt: skip
NARROW: dict[str, dict[str, Any]] = {
    "bmrl": MAPS,
    "mfclip": {**MAPS, "model.noise_depth": 1},
    "clip": {**TOWER, "model.patch": 32},
    "cvit": {name: MAPS[name] for name in ("model.dim", "model.depth", "model.heads", "model.mlp", "model.widths")},
    "cael": {
        "model.width": 0.25, "model.depth": 0.2, "model.fine": 16, "model.coarse": 16, "model.edge_widths": (4, 4, 4, 4),
        "model.heads": 2, "model.mlp": 16,
    },
    "dna-det": {"model.widths": (4, 8, 8), "model.projection": 8, "model.crops": 4, "model.pretrain_epochs": 1},
    "cpl": {"model.width": 0.1, "model.depth": 0.2},
    "carzero": {**TOWER, "model.patch": 32, "model.decoder_depth": 1, "model.decoder_mlp": 16},
    "de-fake": {**TOWER, "model.hidden": (16, 8)},
    "resnet50": {"model.width": 0.1, "model.depth": 0.2},
    "knn": {"model.rows": 50, "model.components": 16},
    "srm-probe": {"model.components": 16},
    "spectrum-probe": {"model.components": 16},
}  # fmt: skip


def narrow(name: str, **more: Any) -> dict[str, Any]:
    """Overrides of preset demo."""
    return {**NARROW[name], "train.precision": "float32", **more}
