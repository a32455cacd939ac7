"""One rival on one stream, run in its own environment by truth.py: the largest score over its threshold, a window."""

import json
import sys
import warnings

import numpy as np
import pandas as pd  # noqa: TID251 the rivals speak it

warnings.simplefilter("ignore")
ROWS = 500


def windows(current):
    return [current.iloc[k : k + ROWS] for k in range(0, len(current), ROWS)]


def scipy(a, b):
    """Kolmogorov-Smirnov or chi-square a column at 5 %, as anyone would write it."""
    from scipy.stats import chi2_contingency, ks_2samp

    found = []
    for part in windows(b):
        row = {}
        for c in a.columns:
            if c[0] == "n":
                p = ks_2samp(a[c].dropna(), part[c].dropna(), method="asymp").pvalue
            else:
                counts = pd.concat([a[c].value_counts(), part[c].value_counts()], axis=1).fillna(0)
                p = chi2_contingency(counts.T)[1]
            row[c] = np.log(max(p, 1e-300)) / np.log(0.05)
        found.append(row)
    return pd.DataFrame(found)


def alibi(a, b):
    """TabularDrift: the same tests, corrected by Bonferroni (its default)."""
    from alibi_detect.cd import TabularDrift

    names = list(a.columns)
    maps = {c: {v: k for k, v in enumerate(sorted(a[c].unique()))} for c in names if c[0] == "c"}

    def matrix(frame):
        parts = [frame[c].map(maps[c]).astype(float) if c in maps else frame[c].fillna(a[c].mean()) for c in names]
        return np.column_stack(parts)

    detector = TabularDrift(matrix(a), p_val=0.05, categories_per_feature={names.index(c): None for c in maps})
    found = []
    for part in windows(b):
        p = detector.predict(matrix(part), drift_type="feature", return_p_val=True)["data"]["p_val"]
        found.append(np.log(np.maximum(p, 1e-300)) / np.log(0.05 / len(names)))
    return pd.DataFrame(found, columns=names)


def nannyml(a, b):
    """UnivariateDriftCalculator and MissingValuesCalculator with their defaults, chunks of a day."""
    import nannyml as nml

    names = list(a.columns)
    calculator = nml.UnivariateDriftCalculator(column_names=names, chunk_size=ROWS)
    seen = calculator.fit(a).calculate(b).filter(period="analysis").to_df()
    missing = nml.MissingValuesCalculator(column_names=names, chunk_size=ROWS)
    gone = missing.fit(a).calculate(b).filter(period="analysis").to_df()
    scores = {}
    for c in names:
        value, limit = seen[(c, "jensen_shannon", "value")], seen[(c, "jensen_shannon", "upper_threshold")]
        far = (value / limit.fillna(0.1)).to_numpy(float)
        value, limit = gone[(c, "value")], gone[(c, "upper_threshold")]
        scores[c] = np.fmax(far, np.where(value > 0, value / limit.fillna(0.0).clip(lower=1e-3), 0.0))
    return pd.DataFrame(scores)


def evidently(a, b):
    """DataDriftPreset with its defaults: for a large reference Wasserstein and Jensen-Shannon beyond 0.1."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    shape = DataDefinition(
        numerical_columns=[c for c in a.columns if c[0] == "n"],
        categorical_columns=[c for c in a.columns if c[0] == "c"],
    )
    before = Dataset.from_pandas(a, data_definition=shape)
    found = []
    for part in windows(b):
        report = Report([DataDriftPreset()]).run(Dataset.from_pandas(part, data_definition=shape), before)
        values = {m.get("config", {}).get("column"): m["value"] for m in report.dict()["metrics"]}
        found.append({c: float(v) / 0.1 for c, v in values.items() if c and not isinstance(v, dict)})
    return pd.DataFrame(found)


def evidently_rule(a, b):
    """Evidently's default statistics by their formulas: the package takes seconds a window (checked against it)."""
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    found = []
    for part in windows(b):
        row = {}
        for c in a.columns:
            if c[0] == "n":
                row[c] = wasserstein_distance(a[c].dropna(), part[c].dropna()) / max(a[c].std(), 1e-3) / 0.1
            else:
                counts = pd.concat([a[c].value_counts(), part[c].value_counts()], axis=1).fillna(0)
                row[c] = jensenshannon(counts.iloc[:, 0], counts.iloc[:, 1]) / 0.1
        found.append(row)
    return pd.DataFrame(found)


if __name__ == "__main__":
    tool, folder, column = sys.argv[1:]
    frames = [pd.read_parquet(f"{folder}/{part}.parquet") for part in ("reference", "current")]
    scores = globals()[tool](*frames)
    print(json.dumps([float(v) for v in (scores[column] if column else scores.max(axis=1))]))
