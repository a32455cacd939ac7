"""The tally of a rollout: sufficient statistics per metric, segment, stratum and arm, kept from tick to tick.

Each row is read once when it arrives and once when its label matures, each unit's events once when its window is over.
The unit is what counts: when a unit returns, its old part is taken out of the sums and its new one put in. What the
sums say stands in cells.py.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from undrift.deploy.plan import Plan
from undrift.deploy.traffic import floats, labelled_rows, segment_columns, values_of
from undrift.develop.bundle import Interface
from undrift.stats.betting import BETS, log_growth
from undrift.stats.quantiles import BINS, bin_of
from undrift.stats.ranking import SCORE_BINS, score_bin

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["DAY", "SUMS", "Tally", "hashes"]

DAY: Final = 86_400_000_000
SUMS: Final = 6
"""n, x, x^2, y, y^2, xy of the units of a cell, x and y less their centre."""
KEPT: Final = 8
"""Values of a unit that a quantile looks at: its first ones, together weighing as much as any other unit."""
MOST_GROUPS: Final = 1000
"""Segments that are counted; rows of later ones count over all only."""
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def hashes(texts: list[str]) -> NDArray[np.uint64]:
    """64 bits of BLAKE2 of each text: a unit's key; two of ten million units share one with probability 3e-6."""
    return np.frombuffer(b"".join(blake2b(t.encode(), digest_size=8).digest() for t in texts), dtype="<u8")


class Tally:
    """Everything that is kept of a rollout between ticks; tally_file.py writes it down.

    Entries are pairs of a unit and a group (all, or one value of a segment), sorted by key. Groups, strata and weights
    are numbered in the order in which they were first seen; ``known`` groups were seen before any outcome was judged.
    """

    def __init__(self, plan: Plan, known: list[tuple[str, str]], centers: Floats) -> None:
        self.plan = plan
        self.through = 0
        self.groups: list[tuple[str, str]] = [("", ""), *known]
        self.known = len(self.groups)
        self.strata: list[tuple[float, int]] = []
        self.centers = centers
        metrics, tests = len(plan.metrics), len(plan.tests)
        self.sums = np.zeros((metrics, len(self.groups), 0, 2, SUMS))
        self.wealth = np.zeros((tests, len(self.groups), BETS))
        shape = (len(self.groups), 0, 2)
        self.counts = {i: np.zeros((*shape, BINS)) for i, m in enumerate(plan.metrics) if m.kind == "quantile"}
        self.scored = {i: np.zeros((*shape, 2, SCORE_BINS)) for i, m in enumerate(plan.metrics) if m.kind == "auc"}
        self.key = np.zeros(0, np.uint64)
        self.unit = np.zeros(0, np.uint64)
        self.group = np.zeros(0, np.int32)
        self.arm = np.zeros(0, np.int8)
        self.stratum = np.zeros(0, np.int32)
        self.first = np.zeros(0, np.int64)
        self.labelled = np.full(0, -1, np.int64)
        self.exposed = np.zeros(0, bool)
        self.mixed = np.zeros(0, bool)
        self.values = np.zeros((0, metrics, 3))
        self.bins = np.zeros((0, len(self.counts), KEPT), np.uint16)

    # -- rows -----------------------------------------------------------------------------------------------------

    def see(self, rows: pa.Table, interface: Interface, candidate: str) -> None:
        """Count rows that have just arrived: their units, and every value that needs no label."""
        arms = _Arms(rows, candidate)
        self._enrol(arms, segment_columns(rows, interface))
        which = [i for i, m in enumerate(self.plan.metrics) if not m.labelled and not m.events]
        self._observe(rows, interface, arms, which)
        self._exposure(arms, labelled_rows(rows) if self.plan.labelled else np.ones(len(arms.unit), bool))

    def see_labels(self, rows: pa.Table, interface: Interface, candidate: str, which: list[int]) -> None:
        """Count the labels of rows that were seen before; `which` metrics they are ripe for."""
        arms = _Arms(rows, candidate)
        self._exposure(arms, labelled_rows(rows))
        self._observe(rows, interface, arms, which)

    def _enrol(self, arms: _Arms, segments: dict[str, tuple[Ints, list[str]]]) -> None:
        """New entries; a unit's stratum is that of the row in which it was first seen."""
        for column, (_, names) in segments.items():
            for name in names:
                if (column, name) not in self.groups and len(self.groups) < MOST_GROUPS:
                    self.groups.append((column, name))
        kinds, which = np.unique(np.stack([arms.probability, arms.time // DAY]), axis=1, return_inverse=True)
        pairs = [(float(share), int(day)) for share, day in kinds.T]
        self.strata += [pair for pair in pairs if pair not in set(self.strata)]
        self._grow()
        arms.groups = [np.zeros(len(arms.unit), np.int64), *(self._group_codes(c, s) for c, s in segments.items())]
        places = {pair: i for i, pair in enumerate(self.strata)}
        home = np.array([places[pair] for pair in pairs], dtype=np.int32)[which.ravel()]
        order = np.argsort(arms.time, kind="stable")
        for codes in arms.groups:
            inside = order[codes[order] >= 0]
            key = _mixed(arms.unit[inside], codes[inside])
            fresh, place = np.unique(key, return_index=True)
            new = ~self._has(fresh)
            rows = inside[place[new]]
            if not len(rows):
                continue
            later = codes is not arms.groups[0]
            base = self._find(_mixed(arms.unit[rows], np.zeros(len(rows), np.int64))) if later else None
            self._insert(
                key=fresh[new],
                unit=arms.unit[rows],
                group=codes[rows].astype(np.int32),
                arm=arms.arm[rows] if base is None else self.arm[base],
                stratum=home[rows] if base is None else self.stratum[base],
                first=arms.time[rows] if base is None else self.first[base],
            )
        whole = self._find(_mixed(arms.unit, np.zeros(len(arms.unit), np.int64)))
        same = np.abs(arms.probability - self._probability()[whole]) < 1e-9
        self.mixed[whole[same & (arms.arm != self.arm[whole])]] = True
        self.exposed[whole[arms.arm == 1]] = True

    def _exposure(self, arms: _Arms, known: NDArray[np.bool_]) -> None:
        """The latest labelled row of each unit of the candidate."""
        rows = np.flatnonzero(known & (arms.arm == 1))
        whole = self._find(_mixed(arms.unit[rows], np.zeros(len(rows), np.int64)))
        np.maximum.at(self.labelled, whole, arms.time[rows])

    def _observe(self, rows: pa.Table, interface: Interface, arms: _Arms, which: list[int]) -> None:
        if not which or not rows.num_rows:
            return
        found = values_of(rows, interface, sorted({self.plan.metrics[i].of for i in which}))
        if not arms.groups:
            segments = segment_columns(rows, interface)
            arms.groups = [np.zeros(len(arms.unit), np.int64), *(self._group_codes(c, s) for c, s in segments.items())]
        positive = _positive(rows, interface) if any(i in self.scored for i in which) else None
        for codes in arms.groups:
            inside = np.flatnonzero((codes >= 0) & (arms.probability > 0) & (arms.probability < 1))
            entry = self._find(_mixed(arms.unit[inside], codes[inside]))
            right = (self.arm[entry] == arms.arm[inside]) & (
                np.abs(self._probability()[entry] - arms.probability[inside]) < 1e-9
            )
            inside, entry = inside[right], entry[right]
            touched = np.unique(entry)
            self._count(touched, which, -1.0)
            for i in which:
                metric = self.plan.metrics[i]
                value = found[metric.of][inside]
                held = np.isfinite(value)
                at, x = entry[held], value[held]
                if metric.bounds is not None:
                    x = np.clip(x, *metric.bounds)
                if positive is not None and metric.kind == "auc":
                    self._score(i, at, x, positive[inside][held])
                    continue
                if metric.kind == "quantile":
                    self._remember(i, at, x)
                np.add.at(self.values[:, i, 0], at, x)
                np.add.at(self.values[:, i, 1], at, 1.0)
            self._count(touched, which, 1.0)

    # -- events ---------------------------------------------------------------------------------------------------

    def ripe(self, metric: int, now: int) -> NDArray[np.intp]:
        """Entries whose window for a metric of events is over and that were not counted yet."""
        window, _ = self.plan.spans[metric]
        probability = self._probability()
        ready = (self.values[:, metric, 1] == 0) & (self.first + window <= now) & (probability > 0) & (probability < 1)
        return np.flatnonzero(ready)

    def see_events(self, metric: int, entries: NDArray[np.intp], events: pa.Table) -> None:
        """Count the events of units whose window is over; `events` holds all of theirs from the covariate's time on."""
        declared = self.plan.metrics[metric]
        window, before = self.plan.spans[metric]
        encoded = events["unit"].combine_chunks().dictionary_encode()
        unit = hashes(encoded.dictionary.to_pylist())[encoded.indices.to_numpy(zero_copy_only=False)]
        time = events["event_time"].cast("int64").to_numpy()
        value = floats(events["value"])
        name = np.asarray(events["name"].to_pylist(), dtype=object)
        order = np.argsort(self.unit[entries], kind="stable")
        units, first = self.unit[entries][order], self.first[entries][order]
        place, starts = np.unique(units, return_index=True)
        begin = first[starts]
        at = np.searchsorted(place, unit)
        known = at < len(place)
        known[known] = place[at[known]] == unit[known]
        at = np.where(known, at, 0)

        def total(which: str, low: int, high: int, weigh: bool) -> Floats:
            inside = known & (name == which) & (time >= begin[at] + low) & (time < begin[at] + high)
            return np.bincount(at[inside], value[inside] if weigh else None, len(place)).astype(np.float64)

        names, summed = declared.events, declared.kind in ("mean", "ratio")
        x = total(names[0], 0, window, summed)
        other = np.ones(len(place))
        if declared.kind == "ratio":
            other = total(names[1], 0, window, False)
        covariate = total(names[0], -before, 0, summed) if before else np.zeros(len(place))
        if declared.kind == "proportion":
            x, covariate = np.minimum(x, 1.0), np.minimum(covariate, 1.0)
        if declared.bounds is not None:
            x = np.clip(x, *declared.bounds)
        which = np.searchsorted(place, self.unit[entries])
        # the second place says that a unit is counted; a ratio's denominator goes where others have their covariate
        self.values[entries, metric, 0] = x[which]
        self.values[entries, metric, 1] = 1.0
        self.values[entries, metric, 2] = (other if declared.kind == "ratio" else covariate)[which]
        self._count(entries, [metric], 1.0)

    # -- sums -----------------------------------------------------------------------------------------------------

    def _count(self, entries: NDArray[np.intp], which: list[int], factor: float) -> None:
        """Put the units' present values into the sums (1), or take them out (-1)."""
        groups, strata = len(self.groups), len(self.strata)
        for i in which:
            metric = self.plan.metrics[i]
            if metric.kind == "auc":
                continue
            e = entries[self.values[entries, i, 1] > 0]
            if metric.kind == "quantile":
                self._spread(i, e, factor)
                continue
            total, rows, third = self.values[e, i, 0], self.values[e, i, 1], self.values[e, i, 2]
            by_rows = metric.kind == "ratio" and not metric.events
            x = total if by_rows else total / rows
            y = rows if by_rows else third
            dx, dy = x - self.centers[i, 0], y
            cell = (self.group[e].astype(np.int64) * strata + self.stratum[e]) * 2 + self.arm[e]
            flat = self.sums[i].reshape(-1, SUMS)
            for j, term in enumerate((np.ones(len(e)), dx, dx * dx, dy, dy * dy, dx * dy)):
                flat[:, j] += factor * np.bincount(cell, term, groups * strata * 2)
            for t in self.plan.bets_on(i):
                growth = self._growth(t, e, x)
                np.add.at(self.wealth[t], self.group[e], factor * growth)

    def _growth(self, test: int, e: NDArray[np.intp], x: Floats) -> Floats:
        """What each entry adds to the log wealth against a test's margin."""
        bet = self.plan.tests[test]
        low, high = self.plan.metrics[bet.metric].bounds or (0.0, 1.0)
        span = high - low
        family = self.plan.family(test)
        # means are bet on by how far they may fall: no centre at the end of the range; rates by how likely they are
        near = 0.01 if family == "mean" else 0.0
        center = np.clip((self.centers[bet.metric, self.group[e]] - low) / span, near, 1 - near)
        margin = np.where(self.group[e] == 0, bet.margin, bet.segment_margin)
        if bet.relative:
            # the score's expectation under the null is margin times the centre in the metric's own unit
            null, weight = margin * (center + low / span), 1 + bet.side * margin
        else:
            null, weight = margin / span, np.ones(len(e))
        y = np.clip((x - low) / span, 0.0, 1.0)
        if bet.side < 0:
            y, center = 1 - y, 1 - center
        p = self._probability()[e]
        return log_growth(y, self.arm[e] == 1, p, center=center, null=null, weight=weight, family=family)

    def _remember(self, metric: int, at: NDArray[np.intp], x: Floats) -> None:
        """Keep the first values of each unit, as bins, for its quantiles."""
        column = list(self.counts).index(metric)
        order = np.argsort(at, kind="stable")
        at, found = at[order], bin_of(np.maximum(x[order], 0.0))
        new, start, size = np.unique(at, return_index=True, return_counts=True)
        place = np.arange(len(at)) - np.repeat(start, size) + np.repeat(self.values[new, metric, 1], size).astype(int)
        fits = place < KEPT
        self.bins[at[fits], column, place[fits]] = found[fits]

    def _spread(self, metric: int, e: NDArray[np.intp], factor: float) -> None:
        """Each unit's kept values into the counts, 1 a unit in all."""
        column, table = list(self.counts).index(metric), self.counts[metric]
        kept = np.minimum(self.values[e, metric, 1], KEPT).astype(int)
        weight = self.share_of()[self.stratum[e]]
        for j in range(int(kept.max(initial=0))):
            has = kept > j
            where = (self.group[e][has], weight[has], self.arm[e][has], self.bins[e[has], column, j])
            np.add.at(table, where, factor / kept[has])

    def _score(self, metric: int, at: NDArray[np.intp], score: Floats, positive: NDArray[np.bool_]) -> None:
        """Each unit's first labelled score into the counts of its class."""
        fresh, place = np.unique(at, return_index=True)
        new = self.values[fresh, metric, 1] == 0
        e, rows = fresh[new], place[new]
        self.values[e, metric, 1] = 1.0
        weight = self.share_of()[self.stratum[e]]
        where = (self.group[e], weight, self.arm[e], positive[rows].astype(int), score_bin(score[rows]))
        np.add.at(self.scored[metric], where, 1.0)

    # -- places ---------------------------------------------------------------------------------------------------

    @property
    def shares(self) -> list[float]:
        """The candidate's shares seen, in order of first sight: the places in the counts of quantiles and scores."""
        return list(dict.fromkeys(p for p, _ in self.strata))

    def share_of(self) -> NDArray[np.intp]:
        """The place in `shares` of each stratum."""
        order = {share: i for i, share in enumerate(self.shares)}
        return np.array([order[p] for p, _ in self.strata], dtype=np.intp)

    def _probability(self) -> Floats:
        return np.array([p for p, _ in self.strata])[self.stratum]

    def _group_codes(self, column: str, segment: tuple[Ints, list[str]]) -> Ints:
        codes, names = segment
        at = {name: i for i, (c, name) in enumerate(self.groups) if c == column}
        return np.array([at.get(name, -1) for name in names] + [-1], dtype=np.int64)[codes]

    def _has(self, key: NDArray[np.uint64]) -> NDArray[np.bool_]:
        place = np.minimum(np.searchsorted(self.key, key), max(len(self.key) - 1, 0))
        return self.key[place] == key if len(self.key) else np.zeros(len(key), bool)

    def _find(self, key: NDArray[np.uint64]) -> NDArray[np.intp]:
        return np.asarray(np.searchsorted(self.key, key))

    def _insert(self, **columns: Any) -> None:
        """New entries beside the old ones, sorted by key again."""
        count = len(columns["key"])
        fresh = {
            **columns,
            "labelled": np.full(count, -1, np.int64),
            "exposed": np.zeros(count, bool),
            "mixed": np.zeros(count, bool),
            "values": np.zeros((count, *self.values.shape[1:])),
            "bins": np.zeros((count, *self.bins.shape[1:]), np.uint16),
        }
        joined = np.concatenate([self.key, fresh["key"]])
        order = np.argsort(joined, kind="stable")
        for name, new in fresh.items():
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, new.astype(old.dtype)])[order])

    def _grow(self) -> None:
        """Room for groups, strata and shares that were just seen."""
        groups, strata, weights = len(self.groups), len(self.strata), len(self.shares)
        self.sums = _room(self.sums, (self.sums.shape[0], groups, strata))
        self.wealth = _room(self.wealth, (self.wealth.shape[0], groups))
        more = groups - self.centers.shape[1]
        if more > 0:
            self.centers = np.concatenate([self.centers, np.repeat(self.centers[:, :1], more, axis=1)], axis=1)
        for tables in (self.counts, self.scored):
            for i, table in tables.items():
                tables[i] = _room(table, (groups, weights))


class _Arms:
    """Rows as arrays: unit, probability of the candidate, arm, time; groups once they are known."""

    def __init__(self, rows: pa.Table, candidate: str) -> None:
        import pyarrow.compute as pc

        ours = pc.equal(rows["revision"], candidate).fill_null(False)
        self.arm = ours.to_numpy(zero_copy_only=False).astype(np.int8)
        drawn = floats(rows["propensity"])
        # the recorded propensity is that of the variant that was drawn
        self.probability = np.round(np.where(self.arm == 1, drawn, 1.0 - drawn), 9)
        encoded = rows["unit"].combine_chunks().fill_null("").dictionary_encode()
        table = hashes(encoded.dictionary.to_pylist())
        self.unit = table[encoded.indices.to_numpy(zero_copy_only=False)] if rows.num_rows else np.zeros(0, np.uint64)
        self.time: Ints = rows["event_time"].cast("int64").to_numpy()
        self.groups: list[Ints] = []


def _mixed(unit: NDArray[np.uint64], group: NDArray[Any]) -> NDArray[np.uint64]:
    """A key for the pair: a bijection of the unit for each group."""
    return np.asarray(unit ^ (group.astype(np.uint64) * _MIX), dtype=np.uint64)


def _room(table: Floats, shape: tuple[int, ...]) -> Floats:
    if table.shape[: len(shape)] == shape:
        return table
    larger = np.zeros((*shape, *table.shape[len(shape) :]))
    larger[tuple(slice(0, n) for n in table.shape)] = table
    return larger


def _positive(rows: pa.Table, interface: Interface) -> NDArray[np.bool_]:
    """Rows whose label is the second of two classes."""
    return np.asarray([label == interface.classes[1] for label in rows["label"].to_pylist()], dtype=bool)
