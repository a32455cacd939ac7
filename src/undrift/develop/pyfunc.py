"""MLflow models of a flavour that undrift does not open itself, run by ``mlflow.pyfunc``.

Loading one runs the code that its folder names, so it needs its word in trust.formats, here and wherever it serves. The
folder travels in a bundle as one archive. MLflow is imported when such a model is opened, and never otherwise.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
import warnings
import weakref
import zipfile
from pathlib import Path
from typing import Any, Final

from undrift.errors import CorruptModelError, ModelError, PredictionError
from undrift.plugins import resolve_path

__all__ = ["PyfuncModel", "packed_folder"]

_WHOLE: Final = ("integer", "long")


def packed_folder(folder: Path) -> bytes:
    """A model folder as one archive; equal folders give equal archives."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            name = path.relative_to(folder).as_posix()
            out.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target.getvalue()


class PyfuncModel:
    """An MLflow model, asked by data frames whose columns have the types of its signature.

    Parameters
    ----------
    content : the folder, as `packed_folder` gives it.
    what : what messages call it.

    Raises
    ------
    CorruptModelError : it is no such archive, or MLflow cannot load it.
    MissingExtraError : MLflow or pandas is not installed.
    """

    def __init__(self, content: bytes, what: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        resolve_path("pandas:DataFrame", wanted_for=what, extra="pyfunc")
        load = resolve_path("mlflow.pyfunc:load_model", wanted_for=what, extra="pyfunc")
        self.content = content
        folder = tempfile.mkdtemp(prefix="undrift-pyfunc-")  # models may read it as long as they live
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # advice about package versions, at every load
        try:
            zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model = load(folder)
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise CorruptModelError(f"{what} cannot be loaded by MLflow: {type(error).__name__}: {text}") from error
        given, answered = self._model.metadata.get_input_schema(), self._model.metadata.get_output_schema()
        if given is not None and given.is_tensor_spec():
            raise ModelError(
                f"{what} takes tensors; a model of named columns was expected.",
                hint="Log it with the signature of a data frame (mlflow.models.infer_signature).",
            )
        self.inputs: tuple[str, ...] = tuple(map(str, given.input_names())) if given is not None else ()
        self.types: tuple[str, ...] = tuple(str(t.name) for t in given.input_types()) if given is not None else ()
        named = answered is not None and not answered.is_tensor_spec() and answered.has_input_names()
        self.outputs: tuple[str, ...] = tuple(map(str, answered.input_names())) if named else ()

    def predict(self, frame: Any) -> Any:
        """Its values, of shape (n,) or (n, k).

        Raises
        ------
        PredictionError : it raised, or answered no table of numbers.
        """
        found = self._ask(frame)
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def predict_proba(self, frame: Any) -> Any:
        """Its probabilities: of the positive class, shape (n,), or of each class, (n, k).

        Raises
        ------
        PredictionError : as `predict`, or it answers classes.
        """
        found = self.predict(frame)
        if found.dtype.kind != "f":
            raise PredictionError(
                f"the MLflow model answers classes ({found.ravel()[:1].tolist()}) without probabilities, which cannot "
                "be watched or compared.",
                hint='Log it so that `predict` gives them: log_model(..., pyfunc_predict_fn="predict_proba").',
            )
        return found

    def _ask(self, frame: Any) -> Any:
        import numpy as np

        given = frame.copy(deep=False)
        for name, kind in zip(self.inputs, self.types, strict=True):
            column = given[name]
            if kind in _WHOLE and not column.isna().any():
                given[name] = column.astype("int64" if kind == "long" else "int32")
            elif kind == "boolean" and not column.isna().any():
                given[name] = column.astype(bool)
            elif kind == "float":
                given[name] = column.astype("float32")
            elif kind == "datetime":
                given[name] = (column * 86_400_000_000).astype("datetime64[us]")
        found = self._model.predict(given)
        if hasattr(found, "to_numpy"):
            found = found.to_numpy()
        found = np.asarray(found)
        if found.dtype == object:
            raise PredictionError(f"the MLflow model answers {found.ravel()[:1].tolist()}; numbers were expected.")
        return found
