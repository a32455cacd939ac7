"""Makes the ONNX file of the hand-made server as its author would: by the converters' own defaults.

`python convert.py FOLDER`, in a process of its own: undrift registers converters that an author by hand does not have.
"""

import json
import sys
from pathlib import Path
from typing import Any

import joblib
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType

folder = Path(sys.argv[1])
model: Any = joblib.load(folder / "model.joblib")
told = json.loads((folder / "rows.json").read_text())
columns, row = told["columns"], told["rows"][0]
if type(model).__module__.startswith("lightgbm"):
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    found = convert_lightgbm(model, initial_types=[("matrix", Floats([None, len(columns)]))], zipmap=False)
else:
    kinds: list[Any] = [
        (name, (StringTensorType if isinstance(row[name], str) else FloatTensorType)([None, 1])) for name in columns
    ]
    if not any(isinstance(row[name], str) for name in columns):
        kinds = [("matrix", FloatTensorType([None, len(columns)]))]
    found = to_onnx(model, initial_types=kinds, options={"zipmap": False})
(folder / "model.onnx").write_bytes(found.SerializeToString())
