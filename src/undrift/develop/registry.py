"""The doorway to MLflow's model registry: versions that point at our bundles, and aliases that mirror what is live.

undrift's event log is the truth about what is live; MLflow follows it, so that people and tools that know MLflow see
the same. A registered version refers to its bundle by hash (the source ``undrift:HASH``); nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from undrift.develop.bundle import revision_id
from undrift.develop.tracking import MlflowTracking, quiet
from undrift.errors import NotFoundError, StateError

__all__ = ["MlflowRegistry"]

_VERSION: Final = "undrift.version"
_REVISION: Final = "undrift.revision"


class MlflowRegistry:
    """The registry of the MLflow that tracks the runs.

    Parameters
    ----------
    tracking : where runs are tracked, or its address.
    """

    def __init__(self, tracking: MlflowTracking | str) -> None:
        self.tracking = MlflowTracking(tracking) if isinstance(tracking, str) else tracking

    def register(
        self, model: str, version: int, *, bundle: str, run_id: str = "", tags: Mapping[str, str] | None = None
    ) -> str:
        """Register a version of ours with MLflow, once; returns MLflow's own version number.

        Parameters
        ----------
        version : undrift's number of the version; kept as a tag, since MLflow counts by itself.
        bundle : hash of the bundle.

        Raises
        ------
        StateError : MLflow cannot be reached or refuses.
        """
        with quiet("register a model version"):
            from mlflow.exceptions import MlflowException

            known = self._find(model, version)
            if known is not None:
                return str(known.version)
            client = self.tracking.client
            try:
                client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            given = {_VERSION: str(version), _REVISION: revision_id(bundle), **(tags or {})}
            made = client.create_model_version(model, source=f"undrift:{bundle}", run_id=run_id or None, tags=given)
        return str(made.version)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Let an alias (``champion``, ``challenger``) point at a version of ours.

        Raises
        ------
        NotFoundError : that version was never registered with MLflow.
        StateError : MLflow cannot be reached or refuses.
        """
        with quiet(f"move the alias {alias!r}"):
            known = self._find(model, version)
            if known is None:
                raise NotFoundError(f"MLflow has no version of {model!r} that is undrift's version {version}.")
            self.tracking.client.set_registered_model_alias(model, alias, known.version)

    def drop_alias(self, model: str, alias: str) -> None:
        """Take an alias away; nothing happens where there is none.

        Raises
        ------
        StateError : MLflow cannot be reached or refuses.
        """
        with quiet(f"drop the alias {alias!r}"):
            self.tracking.client.delete_registered_model_alias(model, alias)

    def alias(self, model: str, alias: str) -> int | None:
        """Undrift's number of the version an alias points at; None without alias, or if it is none of ours.

        Raises
        ------
        StateError : MLflow cannot be reached.
        """
        with quiet(f"read the alias {alias!r}"):
            from mlflow.exceptions import MlflowException

            try:
                found = self.tracking.client.get_model_version_by_alias(model, alias)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        number = found.tags.get(_VERSION)
        return None if number is None else int(number)

    def download(self, uri: str, into: Path) -> Path:
        """The files of a model that MLflow keeps (``models:/NAME@ALIAS``, ``models:/NAME/VERSION``), as a local folder.

        Raises
        ------
        NotFoundError : no such model, version or alias.
        StateError : MLflow cannot be reached, or the files cannot be fetched.
        """
        with quiet(f"fetch {uri}"):
            from mlflow.artifacts import download_artifacts
            from mlflow.exceptions import MlflowException

            try:
                source = self._source(uri)
                folder = download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=self.tracking.url)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise NotFoundError(
                        f"MLflow at {self.tracking.url} has no model {uri!r}: {error.message}",
                        hint="stores.tracking in undrift.toml says which MLflow is asked.",
                    ) from error
                raise
        return Path(folder)

    def _source(self, uri: str) -> str:
        name, at, alias = uri.removeprefix("models:/").partition("@")
        client = self.tracking.client
        if at:
            version = client.get_model_version_by_alias(name, alias).version
        else:
            name, _, version = name.partition("/")
        source: str = client.get_model_version_download_uri(name, str(version))
        if source.startswith("undrift:"):
            raise StateError(f"{uri} is a version that undrift registered: its bundle is {source}, not in MLflow.")
        return source

    def _find(self, model: str, version: int) -> Any:
        found = self.tracking.client.search_model_versions(f"name = '{model}' AND tags.`{_VERSION}` = '{version}'")
        return found[0] if found else None
