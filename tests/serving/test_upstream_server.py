"""An upstream model that is really served: by another undrift, over its own Open Inference and TensorFlow endpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from undrift.develop.upstream import Column, Upstream, UpstreamModel
from undrift.errors import PredictionError

from servers import Routed, Serve, flights  # isort: skip

INPUTS = (
    Column("flight", "string"),
    Column("at", "string"),
    Column("origin", "string"),
    Column("carrier", "string"),
    Column("distance"),
    Column("hour", "integer"),
)


def test_a_served_model_answers_as_an_upstream_what_it_answers_itself(serve: Serve, routed: Routed) -> None:
    server = serve(routed("r-one"))
    given = flights(12)
    rows = np.array([[row[column.name] for column in INPUTS] for row in given], dtype=object)
    wanted = [each["score"] for each in server.predict(given).json()["predictions"]]
    declared: dict[str, Any] = {
        "url": f"http://127.0.0.1:{server.port}", "model": "flights", "inputs": INPUTS, "task": "binary",
        "classes": ("0", "1"),
    }  # fmt: skip
    v2 = UpstreamModel(Upstream(protocol="v2", output="score", **declared))
    assert v2.predict_proba(rows) == pytest.approx(wanted)
    tensorflow = UpstreamModel(Upstream(protocol="tensorflow", output="score", **declared))
    assert tensorflow.predict_proba(rows) == pytest.approx(wanted)
    rows[0, 5] = 99  # breaks the contract there
    with pytest.raises(PredictionError, match="answered 4"):
        v2.predict_proba(rows)
    assert v2.breaker.state == "closed"
    server.stop()
    with pytest.raises(PredictionError, match="cannot be reached"):
        v2.predict_proba(rows)
    assert v2.breaker.failures == 1
