"""Golden requests: every running worker is asked again what its models answered when they were registered.

An answer that changed without a release, or a file of a bundle that is not the one registered, is a fault whatever the
traffic looks like; no chance is in it, so no budget is spent. Workers ask themselves (serving/health.py); what they
left is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from undrift.finding import Finding, Verdict, Window
from undrift.monitor.monitors import Monitor, found
from undrift.serving.health import Health

__all__ = ["judge_golden"]

UNKNOWN: Final = "no running worker told of its golden requests (`undrift serve` on this machine, serve.check_seconds)"


def judge_golden(monitor: Monitor, model: str, workers: Sequence[Health], now: datetime) -> list[Finding]:
    """Judge what the workers saw last of a model's revisions; pure.

    Parameters
    ----------
    workers : of this machine; empty where none runs, or where the past is judged again.
    """
    window = Window(now - monitor.span, now)
    told = [(worker, asked) for worker in workers for asked in worker.asked if asked.model == model]
    findings: list[Finding] = []
    for version, revision in sorted({(asked.version, asked.revision) for _, asked in told}):
        mine = [(worker, asked) for worker, asked in told if asked.revision == revision]
        wrong = [(worker, asked) for worker, asked in mine if asked.differ]
        changed = [asked.file for _, asked in mine if asked.file]
        if wrong:
            worker, first = wrong[0]
            why = (
                f"{len(wrong)} of {len(mine)} workers answer golden requests of version {version} other than when it "
                f"was registered: {first.differ} of {first.rows} on worker {worker.worker}, {first.why}"
            )
            share = max(asked.differ / max(asked.rows, 1) for _, asked in wrong)
            findings.append(
                found(
                    monitor, Verdict.FAIL, why, name="golden", value=share, n=first.rows, window=window, onset=now,
                    cause=f"version {version} answers other than it did", version=version, lingers=True,
                )
            )  # fmt: skip
        if changed:
            why = f"the bundle of version {version} changed under the running service: {changed[0]}"
            findings.append(
                found(
                    monitor, Verdict.FAIL, why, name="model_file", value=1.0, n=len(mine), window=window, onset=now,
                    cause=f"the files of version {version} changed", version=version, lingers=True,
                )
            )  # fmt: skip
    asked = sum(asked.rows for _, asked in told)
    if findings:
        return findings
    if not told or not asked:
        why = "workers were too busy to be asked, or their models are on other servers" if told else UNKNOWN
        return [found(monitor, Verdict.INCONCLUSIVE, why, name="golden", value=0.0, n=0, window=window)]
    workers_told = len({worker.pid for worker, _ in told})
    why = f"{asked} golden requests on {workers_told} workers are answered as on record, and no file changed"
    return [found(monitor, Verdict.PASS, why, name="golden", value=0.0, n=asked, window=window)]
