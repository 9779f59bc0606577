"""The result document as text: the table that `bmrl-eval` prints."""

from __future__ import annotations

from typing import Any

SPLITS = {"val": "validation", "train": "training"}


def render_table(document: dict[str, Any]) -> str:
    """Seen and unseen side by side, the controls under them."""
    seen, data = document["seen"], document["data"]
    lines = [
        f"{document['attributor']}, preset {document['preset']}, semantics {document['semantics']}, "
        f"protocol {document['protocol'] or 'none (every generator is a class)'}"
        + ("  -- SIMULATED sources: no evidence about real generators" if document["simulated"] else ""),
        f"data {data['name']} {data['root_digest'][:16]}, {seen['n']} seen test images",
        "",
        f"seen accuracy {_percent(seen['accuracy'])}   macro F1 {_percent(seen['macro_f1'])}",
    ]
    if data["missing_sources"]:
        lines.append(f"missing sources (named by the protocol, not in the data): {', '.join(data['missing_sources'])}")
    if data["other_views"]:
        lines.append(f"views with other parameters than in the training: {', '.join(data['other_views'])}")
    if document["published"]:
        sizes = ", ".join(f"{what} {size}" for what, size in document["published"].items())
        here = f"{_ranges(data['n_train'])} training and {_ranges(data['n_per_generator'])} test images a source"
        lines.append(f"published sizes: {sizes}; here: {here}")
    lines += _detection_lines(document)
    lines += ["", *_threshold_lines(document)]
    if document["auroc"]:
        scores = ", ".join(
            f"{name} {value:.3f}" for name, value in document["auroc"].items() if name != "per_generator"
        )
        lines += ["", f"AUROC seen against unseen, mean over unseen sources: {scores}"]
    lines += _zero_shot_lines(document["zero_shot"])
    lines += ["", *_confusion_lines(document["confusion"])]
    lines += _lookalike_lines(document)
    if document["controls"]:
        lines += ["", *_control_lines(document["controls"], seen["accuracy"])]
    return "\n".join(lines)


def _detection_lines(document: dict[str, Any]) -> list[str]:
    if document["task"] != "detection":
        return []
    found = document["detection"]
    if found is None:
        return ["", "no real test rows: AUC and balanced accuracy of real against fake are not measured"]
    lines = ["", f"{'real against fake':24} {'':7} {'n':>6} {'AUC':>6} {'bal. acc':>9}"]
    for source, facts in found["sources"].items():
        share = _percent(facts["balanced_accuracy"])
        lines.append(f"{source:24} {facts['part']:7} {facts['n']:6d} {facts['auc']:6.3f} {share:>9}")
    for part in ("seen", "unseen"):
        if found[f"{part}_auc"] is not None:
            share = _percent(found[f"{part}_balanced_accuracy"])
            lines.append(f"{'mean over sources':24} {part:7} {'':6} {found[f'{part}_auc']:6.3f} {share:>9}")
    return [
        *lines,
        f"{found['n_real']} real test images, {_percent(found['real_accuracy'])} called real; always fake: 0.500, 50.0%",
    ]


def _threshold_lines(document: dict[str, Any]) -> list[str]:
    thresholds = document["thresholds"]
    lines = [
        f"{'threshold':44} " + " ".join(f"{name:>8}" for name in thresholds),
        _row("seen rejected (lower is better)", [at["seen_rejection"] for at in thresholds.values()]),
        _row("seen accepted and correct", [at["accepted_correct"] for at in thresholds.values()]),
    ]
    if not document["auroc"]:
        return [*lines, "no unseen rows: rejection of unseen sources and AUROC are not measured"]
    lines.append(_row("unseen rejected, mean over sources", [at["unseen_rejection"] for at in thresholds.values()]))
    aurocs = document["auroc"]["per_generator"]
    lines += [
        "",
        f"{'unseen source':24} {'relation':32} {'AUROC':>6} "
        + " ".join(f"rej@{name:<4}" for name in thresholds)
        + "  taken for",
    ]
    for name in aurocs:
        relation = document["relations"].get(name, "")
        shares = " ".join(f"{_percent(at['per_generator'][name]):>8}" for at in thresholds.values())
        taken = document["unseen_taken_for"][name]
        lines.append(
            f"{name:24} {relation:32} {aurocs[name]:6.3f} {shares}  {taken['taken_for']} ({_percent(taken['taken_for_share'])})"
        )
    return lines


ZERO_SHOT_NOTES = {
    "text": "text: the prompt of that level nearest to the image, among those of the sources trained on",
    "centres": "centres: the answer of the trained source whose mean {split} feature is nearest",
    "content": "content: the best leak control, probe: the best classical baseline, each trained for that question",
    "majority": "majority: always the commonest answer; outside: unseen images whose answer no trained source has, left out",
    "unseen source": "unseen source: names never trained on, by text; above chance only by words that trained names share",
    "unread": "unseen names that the text encoder cannot read (tokens or a length that no trained prompt has), not asked: {n}",
}


def zero_shot_notes(found: dict[str, Any]) -> list[str]:
    """One line for each thing that the zero-shot table shows."""
    notes = []
    if found["text"]:
        notes.append(ZERO_SHOT_NOTES["text"])
    if found["centres"]:
        notes.append(ZERO_SHOT_NOTES["centres"].format(split=SPLITS[found["centres"]["split"]]))
    if found.get("content"):
        notes.append(ZERO_SHOT_NOTES["content"])
    notes.append(ZERO_SHOT_NOTES["majority"])
    if found["text"] and "unseen source" in found["text"]["levels"]:
        notes.append(ZERO_SHOT_NOTES["unseen source"])
    if found["text"] and found["text"]["unread_names"]:
        notes.append(ZERO_SHOT_NOTES["unread"].format(n=len(found["text"]["unread_names"])))
    return notes


def zero_shot_rows(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(text, centres, content or probe; level; its facts); none where nothing could be asked, as of sources of unknown
    kind."""
    return [
        (way, level, facts)
        for way in ("text", "centres", "content", "probe")
        if found.get(way)
        for level, facts in found[way]["levels"].items()
    ]


def _zero_shot_lines(found: dict[str, Any]) -> list[str]:
    rows = zero_shot_rows(found)
    if not rows:
        return []
    part = f"{'seen':>7} {'majority':>8} {'n':>6}"
    lines = [
        "",
        f"{'zero-shot':24} {'cand.':>5} {'chance':>7} {part} {part.replace('  seen', 'unseen')} {'outside':>7}",
    ]
    for way, level, facts in rows:
        outside = facts["unseen"]["n_outside"] if facts["unseen"] else 0
        lines.append(
            f"{way:8}{level:16} {len(facts['candidates']):5d} {_percent(facts['chance']):>7} {_answered(facts['seen'])} "
            f"{_answered(facts['unseen'])} {outside:7d}"
        )
    return [*lines, *zero_shot_notes(found)]


def _answered(facts: dict[str, Any] | None) -> str:
    if facts is None or not facts["n"]:
        return f"{'-':>7} {'-':>8} {0:6d}"
    return f"{_percent(facts['accuracy']):>7} {_percent(facts['majority']):>8} {facts['n']:6d}"


def _confusion_lines(confusion: dict[str, Any]) -> list[str]:
    """Rows true, columns attributed, in percent of the row; columns are numbered like the rows."""
    classes = confusion["classes"]
    lines = [f"{'confusion, % of each true source':36} " + " ".join(f"{number:>4}" for number in range(len(classes)))]
    for number, (name, row) in enumerate(zip(classes, confusion["counts"], strict=True)):
        total = max(1, sum(row))
        cells = " ".join(f"{100 * count / total:4.0f}" if count else "   ." for count in row)
        lines.append(f"{number:>3} {name:32} {cells}")
    return lines


def _lookalike_lines(document: dict[str, Any]) -> list[str]:
    if not document.get("lookalikes"):
        return []
    lines = ["", f"{'control source (never trained)':34} {'AUROC':>6} {'rejected':>18}  taken for"]
    for name, facts in document["lookalikes"].items():
        shares = " ".join(f"{_percent(share)}@{t}" for t, share in facts["rejection"].items())
        lines.append(
            f"{name:34} {facts['auroc_against_seen']:6.3f} {shares:>18}  {facts['taken_for']} "
            f"({_percent(facts['taken_for_share'])})"
        )
    return lines


def _control_lines(controls: dict[str, Any], accuracy: float) -> list[str]:
    lines = [f"{'leak control (content and container only)':44} {'centre':>8} {'logistic':>8} {'1-NN':>8}"]
    for name, row in controls["leaks"].items():
        lines.append(_row(name, [row["nearest centre"], row["logistic"], row["1-NN"]]))
    best = controls["best_leak"]
    lines += [
        f"chance {_percent(controls['chance'])}, majority {_percent(controls['majority'])}, probe on shuffled labels "
        f"{_percent(controls['shuffled_labels'])}",
        f"best leak {_percent(best['accuracy'])} ({best['control']}); the attributor is "
        f"{100 * (accuracy - best['accuracy']):+.1f} points from it",
        "",
        f"{'classical baseline (linear probe)':44} {'accuracy':>8} {'AUROC':>8}",
    ]
    for name, row in controls["classical"].items():
        auroc = "-" if row["auroc"] is None else f"{row['auroc']:.3f}"
        lines.append(f"{name:44} {_percent(row['accuracy']):>8} {auroc:>8}")
    drawn = [f"{used} of {of} {part}" for part, (used, of) in controls["rows"].items() if used < of]
    if drawn:
        lines.append(f"controls and baseline: on {', '.join(drawn)} rows, drawn at random")
    return lines


def _ranges(counts: dict[str, int]) -> str:
    low, high = min(counts.values(), default=0), max(counts.values(), default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def _row(label: str, shares: list[float]) -> str:
    return f"{label:44} " + " ".join(f"{_percent(share):>8}" for share in shares)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
