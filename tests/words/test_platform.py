"""What a hosting platform's variables do to the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from undrift.errors import SettingsError
from undrift.settings import load


def test_vertex_ai_tells_port_and_routes(tmp_path: Path) -> None:
    (tmp_path / "undrift.toml").write_text("[serve]\nport = 1234\n")
    told = {"AIP_HTTP_PORT": "8090", "AIP_PREDICT_ROUTE": "/v1/x:predict", "AIP_HEALTH_ROUTE": "/v1/x", "AIP_MODE": "a"}
    settings = load(tmp_path / "undrift.toml", told)
    serve = settings.serve
    assert (serve.port, serve.host, serve.predict_route, serve.health_route) == (
        8090, "0.0.0.0", "/v1/x:predict", "/v1/x",
    )  # fmt: skip
    assert settings.origins["serve.port"] == "AIP_HTTP_PORT"


def test_sagemaker_moves_the_port_and_names_the_model() -> None:
    serve = load(None, {"SAGEMAKER_BIND_TO_PORT": "9001", "SAGEMAKER_MODEL_NAME": "flights"}).serve
    assert (serve.port, serve.model, serve.host) == (9001, "flights", "0.0.0.0")


def test_sagemaker_says_how_many_workers_and_how_many_seconds() -> None:
    serve = load(None, {"SAGEMAKER_MODEL_SERVER_WORKERS": "3", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20"}).serve
    assert (serve.workers, serve.timeout_ms) == (3, 20_000)


def test_a_further_port_is_one_of_those_that_sagemaker_allows() -> None:
    told = {"SAGEMAKER_BIND_TO_PORT": "8081", "SAGEMAKER_SAFE_PORT_RANGE": "8081-8099"}
    assert load(None, told).serve.grpc_port == -1
    settings = load(None, {**told, "UNDRIFT_SERVE__GRPC_PORT": "0"})
    assert (settings.serve.grpc_port, settings.origins["serve.grpc_port"]) == (8082, "SAGEMAKER_SAFE_PORT_RANGE")
    assert load(None, {**told, "UNDRIFT_SERVE__GRPC_PORT": "8099"}).serve.grpc_port == 8099
    with pytest.raises(SettingsError, match=r"SAGEMAKER_SAFE_PORT_RANGE: serve.grpc_port = 9000 must be in 8081-8099"):
        load(None, {**told, "UNDRIFT_SERVE__GRPC_PORT": "9000"})
    for unusable in ("all", "8081-8081", "9-8"):
        with pytest.raises(SettingsError, match="must be two ports"):
            load(None, {**told, "SAGEMAKER_SAFE_PORT_RANGE": unusable, "UNDRIFT_SERVE__GRPC_PORT": "0"})


def test_a_variable_of_our_own_wins() -> None:
    told = {"AIP_HTTP_PORT": "8090", "UNDRIFT_SERVE__PORT": "7000", "UNDRIFT_SERVE__HOST": "127.0.0.1"}
    settings = load(None, told)
    assert (settings.serve.port, settings.serve.host) == (7000, "127.0.0.1")
    assert settings.origins["serve.port"] == "UNDRIFT_SERVE__PORT"


def test_without_them_nothing_changes() -> None:
    assert load(None, {"SAGEMAKER_REGION": "eu-west-1"}).serve == load(None, {}).serve


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AIP_HTTP_PORT", "many", "AIP_HTTP_PORT: serve.port"),
        ("AIP_HTTP_PORT", "70000", "0..65535"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "soon", "SAGEMAKER_MODEL_SERVER_TIMEOUT: serve.timeout_ms"),
        ("AIP_PREDICT_ROUTE", "predict", "must be a path"),
        ("AIP_HEALTH_ROUTE", "/{x}", "must be a path"),
    ],
)
def test_what_cannot_be_followed_is_told_with_the_variable(variable: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as told:
        load(None, {variable: value})
    assert variable in told.value.message
