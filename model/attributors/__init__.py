"""One file an attributor. A name chooses its module here and nowhere else; it is imported when it is chosen."""

from __future__ import annotations

from importlib import import_module

from ..attributor import Spec

ATTRIBUTORS = {  # name -> module in this package
    "bmrl": "bmrl",
    "mfclip": "mfclip",
    "clip": "clip",
    "cvit": "cvit",
    "dna-det": "dna_det",
    "cael": "cael",
    "cpl": "cpl",
    "carzero": "carzero",
    "de-fake": "de_fake",
    "resnet50": "resnet50",
    "knn": "knn",
    "srm-probe": "srm_probe",
    "spectrum-probe": "spectrum_probe",
}
PLANNED = ("sjedd",)


def check_attributor(name: str) -> None:
    """Raises ValueError where `name` is no attributor of this version."""
    if name in ATTRIBUTORS:
        return
    if name in PLANNED:
        raise ValueError(f"attributor {name!r} is planned and not in this version; it has {', '.join(ATTRIBUTORS)}")
    raise ValueError(f"unknown attributor {name!r}; known are {', '.join(ATTRIBUTORS)}")


def load_spec(name: str) -> Spec:
    """Settings, presets, semantics and class of an attributor. Raises ValueError for an unknown name."""
    check_attributor(name)
    spec: Spec = import_module(f".{ATTRIBUTORS[name]}", __name__).SPEC
    return spec
