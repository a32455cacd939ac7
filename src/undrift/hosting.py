"""What hosting platforms ask of a container by the variables they set, as settings of the server.

Vertex AI and SageMaker. Which setting wins over which is decided in settings.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["PLATFORM", "ROUTE", "from_platform"]

PLATFORM: Final = {
    "AIP_HTTP_PORT": "port",
    "AIP_PREDICT_ROUTE": "predict_route",
    "AIP_HEALTH_ROUTE": "health_route",
    "SAGEMAKER_BIND_TO_PORT": "port",
    "SAGEMAKER_MODEL_NAME": "model",
}
"""The setting of the server that each variable stands for."""
ROUTE: Final = re.compile(r"/[A-Za-z0-9._~:@!$&'()*+,;=/-]*")
"""What a path that a platform asks for may look like."""


def from_platform(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The settings of the server that a platform's variables stand for, each with the variable's name."""
    found = {key: (variable, environ[variable]) for variable, key in PLATFORM.items() if environ.get(variable)}
    # a container is asked from outside
    return {"host": ("the platform", "0.0.0.0"), **found} if found else {}
