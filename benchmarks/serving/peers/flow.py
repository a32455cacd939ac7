"""Saves a fitted estimator as an MLflow model, for `mlflow models serve`: `python flow.py FOLDER TARGET`."""

import sys
from pathlib import Path

import joblib
import mlflow.sklearn

folder, target = Path(sys.argv[1]), Path(sys.argv[2])
if not target.exists():
    mlflow.sklearn.save_model(
        joblib.load(folder / "model.joblib"), target, pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"], serialization_format="cloudpickle",
    )  # fmt: skip
