"""The data contract: what a row must look like, as a value that people review and machines enforce everywhere.

The same contract checks training tables, batches and single requests. It reads and writes the Open Data Contract
Standard (ODCS v3). How data is checked stands in inspect.py, how a request is decoded in decoder.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Contract", "Field", "FieldType"]

FieldType = Literal["string", "integer", "number", "boolean", "timestamp"]


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column of a contract.

    ``role``: a ``feature`` is an input of the model; ``context`` is sent along (entity keys, raw material of
    transforms) and never reaches the model. ``nullable`` allows null or absence. ``minimum``/``maximum`` are inclusive.
    ``on_violation`` says what a broken range or category rule does to the row: ``flag`` accepts and counts it,
    ``reject`` refuses a request and quarantines a batch row. A wrong type or a missing value that is not nullable
    always rejects. ``personal`` fields are redacted from capture.
    """

    name: str
    type: FieldType
    role: Literal["feature", "context"] = "feature"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    unit: str = ""
    personal: bool = False
    on_violation: Literal["flag", "reject"] = "flag"
    description: str = ""


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The columns a table or request must have. ``unknown``: what columns not named here do."""

    name: str
    fields: tuple[Field, ...]
    version: str = "1.0.0"
    unknown: Literal["reject", "ignore"] = "reject"
    description: str = ""
