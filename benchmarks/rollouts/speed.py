"""How long a judgement takes from the tally, whatever the number of units: 20 metrics by 50 segments.

    python benchmarks/rollouts/speed.py

The sums are those of ten million units over five weights and thirty days, drawn rather than counted: judging sees sums
only. Counting (what a tick does with the rows that are new) is timed apart, on rows in memory.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from undrift.data.contract import Contract, Field
from undrift.deploy.cells import cells_of
from undrift.deploy.evidence import Evidence
from undrift.deploy.judge import judge_rollout
from undrift.deploy.metrics import Metric
from undrift.deploy.plan import Plan
from undrift.deploy.rollout import Exposure, start
from undrift.deploy.strategy import Guardrail, Rollout
from undrift.deploy.tally import Tally
from undrift.develop.bundle import Interface
from undrift.finding import Window
from undrift.stats.quantiles import BINS, bin_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNITS, SEGMENTS, DAYS = 10_000_000, 50, 30
SHARES = (0.05, 0.1, 0.25, 0.5)


def rollout(*, quantiles: bool) -> Rollout:
    """20 metrics: proportions, means, ratios, adjusted means, and two quantiles or two more means."""
    events = [Metric(name=f"sales{i}", of=f"event:e{i}", window="7d", better="higher") for i in range(6)]
    adjusted = [
        Metric(name=f"spend{i}", of=f"event:s{i}", window="7d", covariate="14d", better="higher") for i in range(2)
    ]
    ratios = [
        Metric(name=f"ratio{i}", of=f"event:a{i}", per=f"event:b{i}", kind="ratio", window="7d", better="higher")
        for i in range(4)
    ]
    own = (*events, *adjusted, *ratios)
    last = ("latency_p95", "latency_p99") if quantiles else ("standardized_shift", "accuracy")
    built = ("failed", "violations", "error", "brier", "log_loss", "latency", *last)
    guards = tuple(Guardrail(metric=name, margin=0.01 if name != "latency_p99" else 5.0) for name in built)
    return Rollout(metrics=own, guardrails=(*guards, *(Guardrail(metric=m.name, margin=0.1) for m in own)))


def filled(declared: Rollout, rng: np.random.Generator) -> Tally:
    plan = Plan.of(declared, "binary")
    known = [("segment", f"s{i}") for i in range(SEGMENTS)]
    tally = Tally(plan, known, np.full((len(plan.metrics), SEGMENTS + 1), 0.1))
    tally.strata = [(share, day) for day in range(DAYS) for share in SHARES[day * len(SHARES) // DAYS :][:1]]
    tally._grow()
    shares = np.array([share for share, _ in tally.strata])
    weight = np.array([1.0, *np.full(SEGMENTS, 1 / SEGMENTS)])[:, None]
    for arm, part in ((0, 1 - shares), (1, shares)):
        n = np.floor(UNITS / len(shares) * weight * part)
        x = rng.normal(0, 0.3 * np.sqrt(n))
        for i in range(len(plan.metrics)):
            table = tally.sums[i, :, :, arm]
            table[..., 0], table[..., 1], table[..., 2] = n, x, 0.09 * n
            table[..., 3], table[..., 4], table[..., 5] = n, 1.2 * n, 0.1 * n
    for table in tally.counts.values():
        for group in range(SEGMENTS + 1):
            for place, share in enumerate(tally.shares):
                values = bin_of(rng.lognormal(3, 0.5, 4000))
                base = np.bincount(values, minlength=BINS) * UNITS * weight[group, 0] / 4000 / len(tally.shares)
                table[group, place, 0], table[group, place, 1] = base * (1 - share), base * share
    tally.wealth = rng.normal(-2, 1, tally.wealth.shape)
    tally.values = np.ones((1, len(plan.metrics), 3))
    return tally


def main() -> None:
    rng = np.random.default_rng(1)
    for quantiles in (True, False):
        judging(rng, rollout(quantiles=quantiles))
    counting(rng)


def judging(rng: np.random.Generator, declared: Rollout) -> None:
    state = start(declared, "r", "m", ("new", 2), ("old", 1), NOW).state
    tally = filled(declared, rng)
    times = []
    for _ in range(15):
        begin = time.process_time()
        cells, tests, thin = cells_of(tally, declared)
        evidence = Evidence(
            window=Window(NOW, NOW + timedelta(days=DAYS)), cells=cells, counts=((5.0, 95_000, 5_000),), mixed=0,
            exposure=Exposure(step_units=1000, total_units=1000), tests=tests, thin=thin,
        )  # fmt: skip
        judge_rollout(state, evidence, NOW)
        times.append(time.process_time() - begin)
    kinds = "two of them quantiles" if any("_p9" in g.metric for g in declared.guardrails) else "no quantiles"
    print(f"judging {len(declared.guardrails)} metrics ({kinds}) by {SEGMENTS} segments: {len(cells)} cells,", end=" ")
    print(f"{statistics.median(times) * 1000:.0f} ms of CPU (median of {len(times)})")


def counting(rng: np.random.Generator) -> None:
    contract = Contract(name="m", fields=(Field(name="segment", type="string"),))
    interface = Interface(
        model="m", task="binary", contract=contract, label="y", unit="u", segments=("segment",), classes=("0", "1")
    )
    guards = (Guardrail(metric="failed", margin=0.01), Guardrail(metric="latency_p99", margin=9.0))
    declared = Rollout(guardrails=guards)
    tally = Tally(Plan.of(declared, "binary"), [], np.zeros((2, 1)))
    size = 100_000
    for tick in range(5):
        treated = rng.random(size) < 0.5
        rows = pa.table(
            {
                "revision": np.where(treated, "new", "old"), "unit": [f"{tick}-{i}" for i in range(size)],
                "propensity": np.full(size, 0.5), "score": rng.random(size),
                "latency_us": rng.integers(500, 5000, size),
                "event_time": pa.array(np.full(size, tick * 3_600_000_000), pa.timestamp("us", "UTC")),
                "error": pa.nulls(size, pa.string()), "label": pa.nulls(size, pa.string()), "value": pa.nulls(size),
                "inputs": [{"segment": f"s{i % 50}"} for i in range(size)],
            }
        )  # fmt: skip
        begin = time.process_time()
        tally.see(rows, interface, "new")
        took = time.process_time() - begin
        print(f"counting {size:,} new units beside {tick * size:,} old ones: {took:.2f} s of CPU")


if __name__ == "__main__":
    main()
