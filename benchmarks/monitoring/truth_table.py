"""The truth table of what truth.py kept, as Markdown: on standard output, and in results.md below its own heading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "scipy": "KS and chi-square at 5 %",
    "alibi": "alibi-detect TabularDrift",
    "evidently_rule": "Evidently's defaults",
    "nannyml": "NannyML's defaults",
}
LEADS = {"segment": "segments", "missing": "integrity", "correlation": "together", "concept": "quality"}
WORDS = {0: "weak", 1: "middle", 2: "strong"}


def begun(days: Sequence[int]) -> int:
    """Alarms: runs of alarmed windows."""
    return sum(1 for d in days if d - 1 not in days)


def quiet_rows(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, streams in found["quiet"].items():
        windows = sum(n for n, _ in streams)
        alarms = sum(begun(days) for _, days in streams)
        alarmed = sum(len(days) for _, days in streams)
        budget = 1.0
        rows.append(
            f"| {name} | {len(streams)} x {streams[0][0]} | {budget:.0f} | {30 * alarms / windows:.2f} "
            f"| {30 * alarmed / windows:.2f} |"
        )
    return rows


def first(scores: Sequence[float], limit: float) -> int | None:
    places = [i for i, s in enumerate(scores) if s > limit]
    return places[0] if places else None


def cell(found: Sequence[int | None], within: int = 14) -> str:
    hits = [d for d in found if d is not None and d < within]
    return f"{len(hits)}/{len(found)}" + (f" ({np.median(hits):.0f})" if hits else "")


def write(folder: Path) -> None:
    ours = json.loads((folder / "truth-undrift.json").read_text())
    path = folder / "truth-rivals.json"
    theirs = json.loads(path.read_text()) if path.exists() else {}
    lines = ["| monitor | streams x windows | budget in 30 days | alarms in 30 days | alarmed windows in 30 |",
             "|---|---|---|---|---|", *quiet_rows(ours), ""]  # fmt: skip
    drift = ours["quiet"]["drift"]
    rate = sum(len(days) for _, days in drift) / sum(n for n, _ in drift)
    limits = {}
    lines += ["| tool, as it comes | alarmed windows in 30 |", "|---|---|"]
    for tool, found in theirs.items():
        scores = np.concatenate(found["quiet"])
        limits[tool] = float(np.quantile(scores, 1 - max(rate, 1 / len(scores))))
        lines.append(f"| {NAMES.get(tool, tool)} | {30 * float((scores > 1).mean()):.1f} |")
    heads = [f"{NAMES.get(t, t)} {how}" for t in theirs for how in ("as it comes", "at undrift's rate")]
    lines += ["", "| change | strength | undrift | its drift alone | its defaults | " + " | ".join(heads) + " |"]
    lines.append("|---" * (5 + len(heads)) + "|")
    for key, found in ours["changed"].items():
        change, strength = key.split("/")
        lead = LEADS.get(change, "drift")
        best = [min((v for n, v in each.items() if n != "default" and v is not None), default=None) for each in found]
        row = [cell(best), cell([each["drift"] for each in found]), cell([each["default"] for each in found])]
        for tool, others in theirs.items():
            scores = others["changed"].get(key, [])
            row += [cell([first(s, 1.0) for s in scores]), cell([first(s, limits[tool]) for s in scores])]
        shown = change if lead == "drift" else f"{change} (also {lead})"
        lines.append(f"| {shown} | {WORDS[int(strength)]} | " + " | ".join(row) + " |")
    print("\n".join(lines))
