"""The head of every result: whose answers on what data, and how many seen images are attributed right."""

from __future__ import annotations

from collections.abc import Mapping

from .case import About, Case
from .result import Section, Table, percent, span
from .scores import closed_set


def overview_section(case: Case) -> Section:
    about, data, seen = case.about, case.about.data, closed_set(case.seen.logits, case.seen.labels)
    run = (
        f"{about.attributor}, preset {about.preset}, semantics {about.semantics}, {said_origin(about)}"
        f"protocol {about.protocol or 'none (every generator is a class)'}"
        + ("  -- SIMULATED sources: no evidence about real generators" if about.simulated else ""),
        f"data {data['name']} {data['root_digest'][:16]}, {seen['n']} seen test images",
    )
    accuracy, f1 = (_with_interval(case, name, seen[name]) for name in ("accuracy", "macro_f1"))
    facts = [f"seen accuracy {accuracy}   macro F1 {f1}"]
    if data["missing_sources"]:
        facts.append(f"missing sources (named by the protocol, not in the data): {', '.join(data['missing_sources'])}")
    if data["other_views"]:
        facts.append(f"views with other parameters than in the training: {', '.join(data['other_views'])}")
    if about.published:
        sizes = ", ".join(f"{what} {size}" for what, size in about.published.items())
        here = f"{ranges(data['n_train'])} training and {ranges(data['n_per_generator'])} test images a source"
        facts.append(f"published sizes: {sizes}; here: {here}")
    document = {
        "seen": seen,
        "protocol": about.protocol,
        "task": about.task,
        "published": about.published,
        "relations": about.relations,
        "simulated": about.simulated,
        "attributor": about.attributor,
        "preset": about.preset,
        "semantics": about.semantics,
        "origin": about.origin,
        "calibration": about.calibration,
        "data": about.data,
    }
    return Section(document=document, tables=(Table(name="run", notes=run), Table(name="seen", notes=tuple(facts))))


def said_origin(about: About) -> str:
    return f"{about.origin}, " if about.origin else ""


def _with_interval(case: Case, name: str, value: float) -> str:
    one = case.estimates.get(("seen", name))
    return f"{percent(value)} {span(one.figure(), 'share') if one else ''}".rstrip()


def ranges(counts: Mapping[str, int]) -> str:
    """The least and the most of some counts, such as `3 to 7`."""
    low, high = min(counts.values(), default=0), max(counts.values(), default=0)
    return f"{low}" if low == high else f"{low} to {high}"
