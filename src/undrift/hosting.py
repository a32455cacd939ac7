"""What hosting platforms ask of a container by the variables they set, as settings of the server.

Vertex AI and SageMaker. Which setting wins over which is decided in settings.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from undrift.errors import SettingsError

__all__ = ["PLATFORM", "ROUTE", "SAFE_PORTS", "from_platform", "safe_port"]

PLATFORM: Final = {
    "AIP_HTTP_PORT": "port",
    "AIP_PREDICT_ROUTE": "predict_route",
    "AIP_HEALTH_ROUTE": "health_route",
    "SAGEMAKER_BIND_TO_PORT": "port",
    "SAGEMAKER_MODEL_NAME": "model",
    "SAGEMAKER_MODEL_SERVER_WORKERS": "workers",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": "timeout_ms",
}
"""The setting of the server that each variable stands for."""
SAFE_PORTS: Final = "SAGEMAKER_SAFE_PORT_RANGE"
"""The variable that says which ports beside the one for requests a container may open, as ``8081-8099``."""
ROUTE: Final = re.compile(r"/[A-Za-z0-9._~:@!$&'()*+,;=/-]*")
"""What a path that a platform asks for may look like."""


def from_platform(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The settings of the server that a platform's variables stand for, each with the variable's name."""
    found = {key: (variable, environ[variable]) for variable, key in PLATFORM.items() if environ.get(variable)}
    name, seconds = found.get("timeout_ms", ("", ""))
    if seconds.isdecimal():
        found["timeout_ms"] = (name, f"{seconds}000")
    # a container is asked from outside
    return {"host": ("the platform", "0.0.0.0"), **found} if found else {}


def safe_port(environ: Mapping[str, str], port: int, taken: int) -> int:
    """The port to open beside the one for requests, where a platform says which ports may be.

    Parameters
    ----------
    port : what the settings ask for; 0 for any.
    taken : the port for requests.

    Raises
    ------
    SettingsError : the range cannot be read, or the port that is asked for is not in it.
    """
    told = environ.get(SAFE_PORTS, "")
    if not told or port < 0:
        return port
    match = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", told)
    low, high = (int(match[1]), int(match[2])) if match else (1, 0)
    free = [each for each in (low, low + 1) if each <= high and each != taken]
    if not free:
        raise SettingsError(f"{SAFE_PORTS} = {told!r} must be two ports, as '8081-8099', and leave one beside {taken}.")
    if port == 0:
        return free[0]
    if not low <= port <= high:
        raise SettingsError(
            f"{SAFE_PORTS}: serve.grpc_port = {port} must be in {told}, the ports this platform allows."
        )
    return port
