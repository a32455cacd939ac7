"""The truth table of what truth.py kept, as Markdown on standard output. Nothing is simulated here."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from streams import STRENGTHS, WATCHED
from truth_watch import MONITORS, STRETCH

NAMES = {
    "plain": "KS and chi-square at 5 %",
    "alibi": "alibi-detect",
    "nannyml": "NannyML",
    "evidently": "Evidently",
}
WORDS = ("weak", "middle", "strong")


def begun(alarmed: Sequence[bool]) -> int:
    """Alarms: runs of alarmed windows."""
    flags = np.asarray(alarmed, dtype=bool)
    return int((flags[1:] & ~flags[:-1]).sum() + (flags[0] if len(flags) else 0))


def monthly(streams: Sequence[Sequence[bool]], stretch: int = 0) -> tuple[float, float, float]:
    """Alarms begun in 30 windows, their standard error over streams, and alarmed windows in 30."""
    counts = []
    for stream in streams:
        parts = [stream[k : k + stretch] for k in range(0, len(stream), stretch)] if stretch else [stream]
        counts.append(30 * sum(begun(part) for part in parts) / len(stream))
    error = float(np.std(counts, ddof=1) / np.sqrt(len(counts))) if len(counts) > 1 else float("nan")
    return float(np.mean(counts)), error, 30 * float(np.mean([np.mean(stream) for stream in streams]))


def limit(streams: Sequence[Sequence[float]], rate: float) -> float:
    """The lowest threshold on scores, from above, at which alarms begin no more often than ``rate`` in 30 windows."""
    windows = sum(len(stream) for stream in streams)
    allowed = max(1.0, rate * windows / 30)
    best = max(max(stream) for stream in streams)
    for threshold in np.unique(np.concatenate([np.asarray(s) for s in streams]))[::-1]:
        if sum(begun(np.asarray(stream) > threshold) for stream in streams) > allowed:
            break
        best = float(threshold)
    return best


def first(scores: Sequence[float], threshold: float) -> int | None:
    places = [i for i, score in enumerate(scores) if score > threshold]
    return places[0] if places else None


def cell(found: Sequence[int | None]) -> str:
    """Share of streams in which the change was found, and after how many windows (median)."""
    hits = [d for d in found if d is not None]
    return f"{100 * len(hits) / len(found):.0f} % ({np.median(hits) + 1:.0f} d)" if hits else "0 %"


def write(path: Path) -> None:
    kept: dict[tuple[str, int], dict[int, Any]] = {}
    text = lzma.decompress(path.read_bytes()).decode() if path.suffix == ".xz" else path.read_text()
    for line in text.splitlines():
        one = json.loads(line)
        kept.setdefault((one["rival"], one["span"]), {})[one["seed"]] = one
    ours = kept.pop(("undrift", 7))
    print("| undrift's monitor | streams x windows | budget | false alarms in 30 days | alarmed windows in 30 |")
    print("|---|---|---|---|---|")
    rate = 0.0
    for name in next(iter(ours.values()))["quiet"]:
        streams = [one["quiet"][name] for one in ours.values()]
        alarms, error, windows = monthly(streams, STRETCH)
        rate += alarms
        held = f"{len(streams)} x {len(streams[0])}"
        print(f"| {name} | {held} | {MONITORS[name].budget:g} | {alarms:.2f} +- {error:.2f} | {windows:.2f} |")
    print(f"\nall of undrift's together: {rate:.2f} false alarms in 30 days\n")
    print(
        "| rival, as it comes | streams x windows | false alarms in 30 days | alarmed windows in 30 | threshold times |"
    )
    print("|---|---|---|---|---|")
    limits = {}
    for (tool, span), found in kept.items():
        streams = [one["quiet"] for one in found.values()]
        alarms, error, windows = monthly([np.asarray(s) > 1 for s in streams])
        limits[tool, span] = limit(streams, rate)
        held = f"{len(streams)} x {len(streams[0])}"
        sure = f" +- {error:.2f}" if len(streams) > 1 else ""
        shown = f"{alarms:.2f}{sure} | {windows:.1f} | {limits[tool, span]:.3g}"
        print(f"| {title(tool, span)} | {held} | {shown} |")
    heads = [f"{title(tool, span)} {how}" for tool, span in kept for how in ("as it comes", "at equal false alarms")]
    print("\n| change | strength | undrift | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(heads)) + "|")
    lost = []
    for change, strengths in STRENGTHS.items():
        for place, strength in enumerate(strengths):
            key = f"{change}/{place}"
            best = [
                min((v for v in one["changed"][key].values() if v is not None), default=None) for one in ours.values()
            ]
            row = [cell(best)]
            for (tool, span), found in kept.items():
                scores = [one["changed"][key] for one in found.values()]
                equal = [first(s, limits[tool, span]) for s in scores]
                row += [cell([first(s, 1.0) for s in scores]), cell(equal)]
                mine, theirs = share(best), share(equal)
                error = np.hypot(unsure(best), unsure(equal))
                if theirs > mine:
                    lost.append(f"{change} {WORDS[place]}: {title(tool, span)} {theirs:.0%}, undrift {mine:.0%} "
                                f"(standard error of the difference {error:.0%})")  # fmt: skip
            print(f"| {change} ({strength:g}) | {WORDS[place]} | " + " | ".join(row) + " |")
    print(f"\nfound within {WATCHED} windows; in brackets the median delay in days; the standard error of a share of "
          f"{len(ours)} streams is at most {50 / np.sqrt(len(ours)):.0f} %")  # fmt: skip
    print("\nat equal false alarms a rival finds more:" + "".join(f"\n- {each}" for each in lost or ["nowhere"]))


def share(found: Sequence[int | None]) -> float:
    return sum(d is not None for d in found) / len(found)


def unsure(found: Sequence[int | None]) -> float:
    """Standard error of a share, after adding one success and one failure: none and all of a few are not certain."""
    n = len(found) + 2
    p = (sum(d is not None for d in found) + 1) / n
    return float(np.sqrt(p * (1 - p) / n))


def title(tool: str, span: int) -> str:
    return NAMES[tool] + ("" if span == 7 else f", windows of {span} d")
