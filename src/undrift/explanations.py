"""The verb that explains answers of a version, and the explanation of what was answered in the past.

Rows get their features here, as known at their time; contributions are computed in develop/explain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from undrift.assembly import with_features
from undrift.candidates import keeping
from undrift.develop.bundle import Manifest
from undrift.errors import ContractError, UndriftError
from undrift.project import Project

if TYPE_CHECKING:
    from undrift.develop.explanation import Explanation

__all__ = ["explain", "explanation_of"]

SAME: Final = 1e-3
"""How far the score of a row asked again may be from the recorded one, relatively above 1."""


def explain(
    project: Project, rows: Any, model: str = "", version: int | None = None, *, method: str = "auto", label: str = ""
) -> list[Explanation]:
    """Explain what a version answers for rows: contributions of its inputs that add up to each answer.

    The champion is explained unless a version is named. Features are looked up as known at each row's time.

    Parameters
    ----------
    rows : request fields, as anything with the Arrow PyCapsule interface or a mapping of columns. Rows that break the
        contract are an error here.
    method : ``auto``, ``exact``, ``permutation`` or ``lime``.
    label : the class to explain, where there are several; the one answered if empty.

    Raises
    ------
    ContractError : a row breaks the contract.
    RequestError : the method or the class does not apply.
    """
    import pyarrow as pa

    from undrift.inference.explain import open_explainer

    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    declared = project.model(model)
    route = project.route(declared.name)
    champion = route["champion"] if version is None and route is not None else ""
    found = project.version(declared.name, version, revision=champion)
    folder = project.artifacts.get(found["bundle"])
    explainer = open_explainer(folder, project.settings.trust)
    interface = explainer.manifest.interface
    checked = keeping(table, interface.contract)
    if checked.quarantined.num_rows:
        reason = checked.quarantined["reason"][0].as_py()
        text = f"{checked.quarantined.num_rows} of {table.num_rows} rows break the contract, the first: {reason}."
        raise ContractError(text, findings=[reason])
    full = with_features(project, interface, checked.accepted, bundle=folder)
    columns = {given.name: full[given.name].to_pylist() for given in interface.inputs}
    return explainer.explain(columns, method=method, label=label)


def explanation_of(project: Project, row: dict[str, Any], method: str) -> dict[str, Any]:
    """The explanation of a captured row by the revision that answered it, or the reason why there is none."""
    from undrift.inference.explain import open_explainer

    if row["score"] is None:
        return {"explanation": None, "unexplained": "the model gave no answer"}
    try:
        explainer = open_explainer(project.bundle_path(row["revision"]), project.settings.trust)
        given = {**(row.get("inputs") or {}), **(row.get("features") or {})}  # the lake lacks columns nobody filled
        columns = {i.name: [given.get(i.name)] for i in explainer.manifest.interface.inputs}
        (found,) = explainer.explain(columns, method=method)
    except UndriftError as error:
        return {"explanation": None, "unexplained": error.message}
    told: dict[str, Any] = msgspec.to_builtins(found)
    if abs(found.score - row["score"]) > SAME * max(1.0, abs(row["score"])):
        hidden = _hidden(explainer.manifest)
        because = f": {', '.join(hidden)} are personal and were not captured" if hidden else ""
        told["notes"] = [
            f"the captured inputs answer {found.score:.4g}, what was answered is {row['score']:.4g}{because}",
            *told["notes"],
        ]
    return {"explanation": told, "unexplained": ""}


def _hidden(manifest: Manifest) -> list[str]:
    return [given.name for given in manifest.interface.inputs if given.name in manifest.interface.personal]
