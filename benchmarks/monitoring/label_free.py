"""Label-free estimates beside NannyML's CBPE, on its own car-loan and US-census data, and beside the truth.

    python benchmarks/monitoring/label_free.py

NannyML runs in an environment of its own (rivals.py). Both are fitted on the reference set and estimate accuracy and
ROC AUC of each chunk of 5,000 rows of the analysis set; the truth comes from the labels, which neither sees.
"""

from __future__ import annotations

import subprocess
import tempfile

import numpy as np
import pyarrow.parquet as pq
from rivals import environment, python

from undrift.stats.calibration import CalibrationMap, expected_roc_auc

LIMIT = 0.005
NANNYML = """
import sys, warnings
warnings.simplefilter("ignore")
import nannyml as nml, pandas as pd
folder = sys.argv[1]
for name, load, truth in (
    ("car loan", nml.load_synthetic_car_loan_dataset, "repaid"),
    ("US census", nml.load_us_census_ma_employment_data, "employed"),
):
    reference, analysis, targets = load()
    old = "y_pred_proba" in reference.columns
    score, said = ("y_pred_proba", "y_pred") if old else ("predicted_probability", "prediction")
    estimator = nml.CBPE(problem_type="classification_binary", y_pred_proba=score, y_pred=said, y_true=truth,
        metrics=["roc_auc", "accuracy"], chunk_size=5000)
    found = estimator.fit(reference).estimate(analysis).filter(period="analysis").to_df()
    whole = analysis.merge(targets, on="id") if "id" in targets.columns else analysis.join(targets)
    for part, frame in (("reference", reference), ("analysis", whole)):
        chosen = frame[[score, said, truth]].set_axis(["score", "said", "truth"], axis=1).astype("float64")
        chosen.to_parquet(f"{folder}/{name} {part}.parquet")
    kept = {m: found[(m, "value")] for m in ("roc_auc", "accuracy")}
    kept |= {"start": found[("chunk", "start_index")], "end": found[("chunk", "end_index")]}
    pd.DataFrame(kept).to_parquet(f"{folder}/{name} cbpe.parquet")
"""


def main() -> None:
    print("| data | metric | chunks | largest difference from NannyML | mean error of ours | of NannyML's |")
    print("|---|---|---|---|---|---|")
    held = True
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(python("nannyml")), "-c", NANNYML, folder], check=True, env=environment())
        for name in ("car loan", "US census"):
            reference, analysis, cbpe = (
                pq.read_table(f"{folder}/{name} {part}.parquet") for part in ("reference", "analysis", "cbpe")
            )
            known = {c: reference[c].to_numpy() for c in ("score", "said", "truth")}
            new = {c: analysis[c].to_numpy() for c in ("score", "said", "truth")}
            rates = CalibrationMap.of(known["score"], known["truth"])(new["score"])
            ours: dict[str, list[float]] = {"roc_auc": [], "accuracy": []}
            real: dict[str, list[float]] = {"roc_auc": [], "accuracy": []}
            for start, end in zip(cbpe["start"].to_pylist(), cbpe["end"].to_pylist(), strict=True):
                rows = slice(start, end + 1)
                p, score, said, truth = rates[rows], new["score"][rows], new["said"][rows], new["truth"][rows]
                ours["roc_auc"].append(expected_roc_auc(p, score))
                ours["accuracy"].append(float(np.where(said == 1, p, 1 - p).mean()))
                real["roc_auc"].append(expected_roc_auc(truth, score))
                real["accuracy"].append(float((said == truth).mean()))
            for metric in ("accuracy", "roc_auc"):
                theirs = cbpe[metric].to_numpy()
                gap = float(np.abs(np.array(ours[metric]) - theirs).max())
                held &= gap <= LIMIT
                errors = [float(np.abs(np.array(each) - real[metric]).mean()) for each in (ours[metric], theirs)]
                print(f"| {name} | {metric} | {len(theirs)} | {gap:.4f} | {errors[0]:.4f} | {errors[1]:.4f} |")
    print(f"\nwithin {LIMIT}: {'yes' if held else 'NO'}")


if __name__ == "__main__":
    main()
