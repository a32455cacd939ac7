"""A rival on simulated streams, run in its own environment by truth.py; one JSON line a stream.

    python truth_rival.py RIVAL SPAN FIRST LAST

A window is SPAN days, judged each day. A score is a statistic over its threshold as the tool comes, so above 1 is an
alarm: of an unchanged stream the largest of all columns in each window, of a changed one that of the changed column
(or, where the tool has one, of what it says of all columns together or of quality). Needs no undrift; what is slow in a
library and plain in a formula is done by the formula, and compared with the library on the first stream.
"""

import json
import sys
import warnings

import numpy as np
from streams import CHANGED, DELAY, LEVELS, ONSET, REFERENCE_DAYS, STRENGTHS, WATCHED, WINDOWS, stream

warnings.simplefilter("ignore")
NUMBERS = [f"n{i}" for i in range(20)]
TEXTS = [f"c{i}" for i in range(10)]
EVE = 20
"""Days before the onset that a window may need: its span, and the delay of labels."""


def values(days, name):
    """A column's values, one array a day."""
    place = int(name[1:])
    return [(day.numbers if name[0] == "n" else day.categories)[:, place] for day in days]


def joined(parts, span, ends):
    """The rows of each window that ends on a day of the list."""
    return [np.concatenate(parts[end - span + 1 : end + 1]) for end in ends]


class Plain:
    """Kolmogorov-Smirnov or chi-square of each column at 5 %, as scipy computes them."""

    level = 0.05
    imputed = False
    quiet = WINDOWS

    def __init__(self, before, span):
        self.reference = {name: np.concatenate(values(before, name)) for name in NUMBERS + TEXTS}
        for name in NUMBERS:
            self.reference[name] = np.sort(self.reference[name])

    def p_values(self, name, parts, span, ends):
        from scipy.special import chdtrc
        from scipy.stats import kstwo

        known = self.reference[name]
        n = len(known)
        if name[0] == "c":
            days = np.array([np.bincount(part, minlength=LEVELS) for part in parts], dtype=float)
            before = np.bincount(known, minlength=LEVELS)
            found = []
            for end in ends:
                table = np.array([before, days[end - span + 1 : end + 1].sum(axis=0)])
                expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
                found.append(chdtrc(LEVELS - 1, ((table - expected) ** 2 / expected).sum()))
            return np.array(found)
        if self.imputed:
            parts = [np.where(np.isnan(part), known.mean(), part) for part in parts]
        parts = [part[~np.isnan(part)] for part in parts]
        low = [np.searchsorted(known, part, "left") for part in parts]
        high = [np.searchsorted(known, part, "right") for part in parts]
        gaps, sizes = [], []
        for below, reached in zip(joined(low, span, ends), joined(high, span, ends), strict=True):
            m = len(below)
            place = np.arange(m)
            gap = np.max([((place + 1) / m - np.sort(reached) / n).max(), (np.sort(below) / n - place / m).max()])
            gaps.append(gap)
            sizes.append(m)
        m, gaps = np.array(sizes), np.array(gaps)
        if len(gaps) == 1 or (m != m[0]).any():
            return kstwo.sf(gaps, np.round(n * m / (n + m)))
        # all windows have as many rows: scipy's slow law once on a grid, its logarithm between is smooth
        grid = np.linspace(max(gaps.min() - 1e-9, 1e-6), gaps.max() + 1e-9, 25)
        law = np.log(np.maximum(kstwo.sf(grid, round(n * m[0] / (n + m[0]))), 1e-300))
        return np.exp(np.interp(gaps, grid, law))

    def scores(self, name, parts, span, ends):
        p = self.p_values(name, parts, span, ends)
        return np.log(np.maximum(p, 1e-300)) / np.log(self.level)

    def together(self, days, span, ends):
        return None

    def quality(self, days, span, ends):
        return None

    def check(self, days, span, end):
        from scipy.stats import chi2_contingency, ks_2samp

        for name in NUMBERS[:3] + TEXTS[:3]:
            window = np.concatenate(values(days[end - span + 1 : end + 1], name))
            if name[0] == "n":
                p = ks_2samp(self.reference[name], window, method="asymp").pvalue
            else:
                counts = [np.bincount(x, minlength=LEVELS) for x in (self.reference[name], window)]
                p = chi2_contingency(counts)[1]
            mine = self.p_values(name, values(days, name), span, [end])[0]
            assert abs(mine - p) < 1e-9, (name, mine, p)


class Alibi(Plain):
    """TabularDrift: the same tests, corrected for the number of columns (its default); nulls as the mean before."""

    level = 0.05 / 30
    imputed = True

    def check(self, days, span, end):
        from alibi_detect.cd import TabularDrift

        names = NUMBERS + TEXTS
        before = np.column_stack([self.reference[name] for name in names]).astype(np.float64)
        detector = TabularDrift(before, p_val=0.05, categories_per_feature=dict.fromkeys(range(20, 30)))
        window = [np.concatenate(values(days[end - span + 1 : end + 1], name)) for name in names]
        found = detector.predict(np.column_stack(window).astype(np.float64), drift_type="feature")["data"]["p_val"]
        mine = [self.p_values(name, values(days, name), span, [end])[0] for name in names]
        assert np.abs(np.array(mine) - found).max() < 1e-6, np.abs(np.array(mine) - found).max()


class NannyML:
    """Its calculators with their defaults: univariate drift (Jensen-Shannon), missing values, data reconstruction, ROC
    AUC on the labels that are known; each beyond its mean in the reference by three standard deviations of chunks.

    The reconstruction error is a mean over rows, so a window's is that of its days; the ROC AUC is scikit-learn's.
    """

    quiet = 100

    def __init__(self, before, span):
        import nannyml as nml
        import pandas as pd  # noqa: TID251 the rivals speak it

        self.nml, self.pd, self.span = nml, pd, span
        self.before = self.frame(before, NUMBERS + TEXTS)
        self.chunk = span * len(before[0].label)
        self.drift = {}
        daily = nml.DataReconstructionDriftCalculator(column_names=NUMBERS + TEXTS, chunk_size=len(before[0].label))
        self.planes = daily.fit(self.before)
        errors = self._errors(before)
        self.usual = self._limits([errors[k : k + span].mean() for k in range(0, len(errors) - span + 1, span)])
        self.auc = self._limits([self._auc(before[k : k + span]) for k in range(0, len(before) - span + 1, span)])

    def frame(self, days, names):
        made = {name: np.concatenate(values(days, name)) for name in names}
        return self.pd.DataFrame({k: v.astype(str) if k[0] == "c" else v for k, v in made.items()})

    def _limits(self, chunks):
        return float(np.mean(chunks)), 3 * float(np.std(chunks))

    def _errors(self, days):
        found = self.planes.calculate(self.frame(days, NUMBERS + TEXTS)).filter(period="analysis").to_df()
        return found[("reconstruction_error", "value")].to_numpy(float)

    def _auc(self, days):
        from sklearn.metrics import roc_auc_score

        label, score = (np.concatenate([getattr(d, part) for d in days]) for part in ("label", "score"))
        return float(roc_auc_score(label, score))

    def scores(self, name, parts, span, ends):
        if name not in self.drift:
            known = self.before[[name]]
            self.drift[name] = (
                self.nml.UnivariateDriftCalculator(column_names=[name], chunk_size=self.chunk).fit(known),
                self.nml.MissingValuesCalculator(column_names=[name], chunk_size=self.chunk).fit(known),
            )
        rows = np.concatenate(joined(parts, span, ends))
        frame = self.pd.DataFrame({name: rows.astype(str) if name[0] == "c" else rows})
        far, missing = self.drift[name]
        seen = far.calculate(frame).filter(period="analysis").to_df()[(name, "jensen_shannon")]
        score = (seen["value"] / seen["upper_threshold"].fillna(0.1)).to_numpy(float)
        if frame[name].isna().any():
            gone = missing.calculate(frame).filter(period="analysis").to_df()[name]
            share = gone["value"].to_numpy(float)
            limit = gone["upper_threshold"].astype(float).fillna(0.0).to_numpy()
            score = np.fmax(score, np.where(share > 0, share / np.maximum(limit, 1e-3), 0.0))
        return score

    def together(self, days, span, ends):
        errors = self._errors(days)
        centre, reach = self.usual
        return np.array([abs(errors[end - span + 1 : end + 1].mean() - centre) / reach for end in ends])

    def quality(self, days, span, ends):
        centre, reach = self.auc
        windows = [days[end - DELAY - span + 1 : end - DELAY + 1] for end in ends]
        return np.array([(centre - self._auc(window)) / reach for window in windows])

    def check(self, days, span, end):
        window = days[end - span + 1 : end + 1]
        whole = self.nml.DataReconstructionDriftCalculator(column_names=NUMBERS + TEXTS, chunk_size=self.chunk)
        found = whole.fit(self.before).calculate(self.frame(window, NUMBERS + TEXTS)).filter(period="analysis").to_df()
        seen = found["reconstruction_error"]
        centre, reach = self.usual
        mine = self._errors(window).mean()
        assert abs(mine - seen["value"][0]) < 1e-6, (mine, seen["value"][0])
        assert abs(centre + reach - seen["upper_threshold"][0]) < 1e-6, (centre + reach, seen["upper_threshold"][0])


class Evidently:
    """The tests that DataDriftPreset takes by default for references above 1,000 rows: the Wasserstein distance in
    standard deviations of the reference, and Jensen-Shannon's, beyond 0.1; by their formulas.
    """

    quiet = 100

    def __init__(self, before, span):
        self.before = {name: np.concatenate(values(before, name)) for name in NUMBERS + TEXTS}
        for name in NUMBERS:
            self.before[name] = np.sort(self.before[name])

    def scores(self, name, parts, span, ends):
        known = self.before[name]
        if name[0] == "n":
            return np.array([self._wasserstein(known, rows) for rows in joined(parts, span, ends)]) / known.std() / 0.1
        from scipy.spatial.distance import jensenshannon

        days = np.array([np.bincount(part, minlength=LEVELS) for part in parts], dtype=float)
        now = np.array([days[end - span + 1 : end + 1].sum(axis=0) for end in ends])
        return jensenshannon(np.tile(np.bincount(known, minlength=LEVELS), (len(now), 1)), now, axis=1) / 0.1

    @staticmethod
    def _wasserstein(known, rows):
        rows = np.sort(rows[~np.isnan(rows)])
        both = np.concatenate([known, rows])
        order = np.argsort(both, kind="stable")  # of two sorted runs, which are merged
        gap = np.cumsum(np.where(order < len(known), 1 / len(known), -1 / len(rows)))
        return float((np.abs(gap[:-1]) * np.diff(both[order])).sum())

    def together(self, days, span, ends):
        return None

    def quality(self, days, span, ends):
        return None

    def check(self, days, span, end):
        import pandas as pd  # noqa: TID251 the rivals speak it
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        shape = DataDefinition(numerical_columns=NUMBERS, categorical_columns=TEXTS)
        window = {n: np.concatenate(values(days[end - span + 1 : end + 1], n)) for n in NUMBERS + TEXTS}
        frames = [
            pd.DataFrame({n: rows.astype(str) if n[0] == "c" else rows for n, rows in side.items()})
            for side in (window, self.before)
        ]
        sides = [Dataset.from_pandas(frame, data_definition=shape) for frame in frames]
        report = Report([DataDriftPreset()]).run(*sides)
        seen = {m.get("config", {}).get("column"): m["value"] for m in report.dict()["metrics"]}
        for name in NUMBERS + TEXTS:
            mine = self.scores(name, values(days, name), span, [end])[0] * 0.1
            assert abs(mine - float(seen[name])) < 1e-6, (name, mine, seen[name])


RIVALS = {"plain": Plain, "alibi": Alibi, "nannyml": NannyML, "evidently": Evidently}


def run(kind, span, seed, checked):
    whole = stream(seed, range(-REFERENCE_DAYS, WINDOWS))
    before = [whole[d] for d in range(-REFERENCE_DAYS, 0)]
    after = [whole[d] for d in range(-EVE, WINDOWS)]
    rival = RIVALS[kind](before, span)
    ends = list(range(EVE, EVE + rival.quiet))
    if checked:
        rival.check(after, span, ends[0])
    after = after[: EVE + rival.quiet]
    parts = [rival.scores(name, values(after, name), span, ends) for name in NUMBERS + TEXTS]
    parts += [
        more for more in (rival.together(after, span, ends), rival.quality(after, span, ends)) if more is not None
    ]
    found = {"quiet": np.max(parts, axis=0).tolist(), "changed": {}}
    eve = [whole[d] for d in range(ONSET - EVE, ONSET)]
    ends = list(range(EVE, EVE + WATCHED))
    for change, strengths in STRENGTHS.items():
        for place, strength in enumerate(strengths):
            later = stream(seed, range(ONSET, ONSET + WATCHED), change, strength)
            days = eve + [later[d] for d in range(ONSET, ONSET + WATCHED)]
            name = CHANGED[change]
            parts = [rival.scores(name, values(days, name), span, ends)]
            if change == "correlation":
                parts += [more for more in [rival.together(days, span, ends)] if more is not None]
            if change == "concept":
                parts += [more for more in [rival.quality(days, span, ends)] if more is not None]
            found["changed"][f"{change}/{place}"] = [round(score, 4) for score in np.max(parts, axis=0).tolist()]
    return found | {"quiet": [round(score, 4) for score in found["quiet"]]}


if __name__ == "__main__":
    kind, span, first, last = sys.argv[1], *map(int, sys.argv[2:])
    for seed in range(first, last):
        print(
            json.dumps({"rival": kind, "span": span, "seed": seed, **run(kind, span, seed, seed == first)}), flush=True
        )
