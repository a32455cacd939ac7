"""Quantisation: the weights of a compiled model as 8-bit integers, if it then judges as well.

For matrix products (neural networks, and linear models that are compiled to one). Trees have none: their nodes hold
thresholds, so they do not quantise, and that is said. What it gains and costs is measured on the validation rows and
stands in the manifest; a model that loses more than allowed stays as it is.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from undrift.develop.bundle import Interface
from undrift.develop.session import Session
from undrift.plugins import resolve_path

__all__ = ["LOSS", "TURNED", "Quantised", "quantise"]

LOSS: Final = 0.01
"""The mean loss may grow by this share."""
TURNED: Final = 0.01
"""This share of the rows may get another class."""
_OPERATORS: Final = ("Conv", "Gemm", "MatMul")
_REPEATS: Final = 30


class Quantised(msgspec.Struct, frozen=True, kw_only=True):
    """What quantising a model gave.

    ``bytes`` and ``microseconds`` (of one row, the median) are before and after, so is ``loss``, the mean loss (none
    without labels), ``turned`` the share of rows with another class, ``largest`` the largest difference of an
    answer. ``reason``: why it does not serve, empty if it does.
    """

    held: bool
    reason: str = ""
    bytes: tuple[int, int] = (0, 0)
    microseconds: tuple[float, float] = (0.0, 0.0)
    loss: tuple[float, float] | None = None
    turned: float = 0.0
    largest: float = 0.0


def quantise(
    content: bytes,
    interface: Interface,
    columns: Mapping[str, Any],
    loss: Callable[[Any], float] | None,
    labels: Callable[[Any], Any],
    *,
    timer: Callable[[], float] = time.perf_counter,
) -> tuple[bytes, Quantised]:
    """Quantise a compiled model; its own content comes back where that does not hold.

    Parameters
    ----------
    columns : encoded columns of validation rows.
    loss : the mean loss of a model's own output on these rows; None without labels.
    labels : the classes of a model's own output; None for regression.
    """
    import numpy as np

    before = Session(content, interface.inputs, interface.task)
    found = _integers(content, [before.feeds(columns)])
    if isinstance(found, str):
        return content, Quantised(held=False, reason=found)
    after = Session(found, interface.inputs, interface.task)
    was, now = before.run(columns), after.run(columns)
    names, turned = labels(was), 0.0
    if names is not None:
        turned = float(np.mean([a != b for a, b in zip(names, labels(now), strict=True)]))
    losses = None if loss is None else (loss(was), loss(now))
    one = {name: values[:1] for name, values in columns.items()}
    times = (_microseconds(before, one, timer), _microseconds(after, one, timer))
    reasons = []
    if losses is not None and not losses[1] <= losses[0] * (1 + LOSS):
        reasons.append(f"the mean loss goes from {losses[0]:.4g} to {losses[1]:.4g}, more than {LOSS:.0%}")
    if turned > TURNED:
        reasons.append(f"{turned:.1%} of the rows get another class, more than {TURNED:.0%}")
    if losses is None and interface.task == "regression":
        reasons.append("without labels there is nothing to judge it by")
    said = Quantised(
        held=not reasons,
        reason="; ".join(reasons),
        bytes=(len(content), len(found)),
        microseconds=times,
        loss=losses,
        turned=turned,
        largest=float(np.abs(was - now).max(initial=0.0)),
    )
    return (found if said.held else content), said


class _Rows:
    """The rows by which the ranges of activations are measured, as the quantiser asks for them."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch; None at the end."""
        return next(self._feeds, None)


def _integers(content: bytes, feeds: list[dict[str, Any]]) -> bytes | str:
    """The quantised graph, or why there is none.

    Ranges of activations are fixed by the validation rows. (Dynamic quantisation takes them from each batch: a row's
    answer would depend on the rows beside it.)
    """
    from onnx import load_model_from_string

    model = load_model_from_string(content)
    kinds = {node.op_type for node in model.graph.node}
    constants = {value.name for value in model.graph.initializer}
    weighted = any(n.op_type in _OPERATORS and constants & set(n.input) for n in model.graph.node)
    if not weighted:
        if any(kind.startswith("TreeEnsemble") for kind in kinds):
            return "trees hold thresholds, not matrices of weights: they do not quantise"
        return "the compiled model has no matrix of weights (Conv, Gemm, MatMul)"
    wanted = "quantising a model"
    change = resolve_path("onnxruntime.quantization:quantize_static", wanted_for=wanted, extra="onnx")
    kind = resolve_path("onnxruntime.quantization:QuantType", wanted_for=wanted, extra="onnx").QInt8
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, through the root logger, to prepare images
    try:
        with tempfile.TemporaryDirectory(prefix="undrift-") as folder:
            target = Path(folder) / "model.onnx"
            change(
                model, str(target), _Rows(feeds), weight_type=kind, per_channel=True,
                op_types_to_quantize=list(_OPERATORS),
            )  # fmt: skip
            return target.read_bytes()
    except Exception as error:  # noqa: BLE001  whatever it cannot do, the model serves as it is
        return f"onnxruntime cannot quantise it: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        root.setLevel(level)


def _microseconds(session: Session, one: Mapping[str, Any], timer: Callable[[], float]) -> float:
    import numpy as np

    taken = []
    for _ in range(_REPEATS):
        began = timer()
        session.run(one)
        taken.append(timer() - began)
    return float(np.median(taken)) * 1e6
