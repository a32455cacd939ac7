"""The bundle: everything a revision needs to run, in one content-addressed directory.

Manifest, model files, contract, reference profile, golden requests and the code of transforms travel together, so a
rollback takes them all back together. Writing and reading stand here; training and serving both use them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from undrift.data.contract import Contract, FieldType
from undrift.data.features import FeatureView, Transform

__all__ = ["Input", "Interface", "Manifest", "Task"]

Task = Literal["binary", "multiclass", "regression"]


class Input(msgspec.Struct, frozen=True):
    """One input of the model itself, in order."""

    name: str
    type: FieldType


class Interface(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model is asked, what it is fed, and what it answers.

    ``key``: the request field that names a prediction (a fresh id if empty). ``unit``: the field whose value decides
    the variant (the key if empty). ``time``: the field with the event time (arrival time if empty). ``classes``: the
    labels of a classifier, as strings, negative first. ``threshold``: score at or above which the binary answer is
    the positive class.
    """

    model: str
    task: Task
    contract: Contract
    label: str
    key: str = ""
    unit: str = ""
    time: str = ""
    views: tuple[FeatureView, ...] = ()
    transforms: tuple[Transform, ...] = ()
    segments: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    threshold: float = 0.5

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The model's inputs in order: feature fields of the contract, then of views, then of transforms."""
        skip = {self.key, self.time, self.label}
        own = [Input(f.name, f.type) for f in self.contract.fields if f.role == "feature" and f.name not in skip]
        looked_up = [Input(f.name, f.type) for view in self.views for f in view.outputs]
        computed = [Input(f.name, f.type) for transform in self.transforms for f in transform.outputs]
        return (*own, *looked_up, *computed)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """manifest.json of a bundle.

    ``format`` names the file that serves (``onnx``, ``skops``, ...), ``native`` the format of the model as trained.
    ``compiled`` tells whether the compilation held its parity check, with the figures, or why not.
    ``files`` maps each other file of the bundle to its SHA-256.
    """

    interface: Interface
    format: str
    native: str
    files: dict[str, str]
    compiled: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    format_version: int = 1
