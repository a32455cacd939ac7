"""The control API over HTTP: who may ask, bodies in, answers and statuses out, and its OpenAPI description.

What can be asked stands in operations.py; the routes and the description follow from that table. Who asks is told by a
bearer token, whose secrets are references in the settings. Errors become statuses by the table in protocols/wire.py.
"""

from __future__ import annotations

import hmac
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from undrift import __version__
from undrift.app.operations import OPERATIONS, Ask, Operation
from undrift.errors import RequestError, ServeError, SettingsError, UndriftError
from undrift.project import Project
from undrift.protocols import wire
from undrift.settings import Settings, secret

__all__ = ["PREFIX", "application", "openapi", "run"]

MOST_BYTES: Final = 1 << 20
SHORTEST_TOKEN: Final = 16
PREFIX: Final = "/api/v1"


def application(settings: Settings, environ: Mapping[str, str] | None = None) -> Starlette:
    """The control API of a project.

    Raises
    ------
    SettingsError : no token is declared, one cannot be read, or is too short to be a secret.
    """
    tokens = _tokens(settings, environ)

    def route(operation: Operation) -> Route:
        decoder: Any = None if operation.body is None else msgspec.json.Decoder(operation.body)

        async def endpoint(request: Request) -> Response:
            try:
                actor = _actor(tokens, request.headers.get("authorization", ""))
                if actor is None:
                    told = {"error": "a bearer token of this project was expected.", "hint": "See ui.tokens."}
                    return _json(told, 401, {"WWW-Authenticate": "Bearer"})
                body = await _body(request, decoder)
                unknown = [name for name in request.query_params if name not in operation.query]
                if unknown:
                    raise RequestError(f"no such parameter; known: {', '.join(operation.query) or 'none'}",
                                       path=f"?{unknown[0][:50]}")  # fmt: skip
                ask = Ask(actor, request.path_params, request.query_params, body)
                return _json(await run_in_threadpool(_call, settings, operation, ask), 200)
            except UndriftError as error:
                return Response(wire.error_body(error), wire.status_of(error), media_type="application/json")

        return Route(PREFIX + operation.path, endpoint, methods=[operation.method], name=operation.name)

    document = msgspec.json.encode(openapi())

    async def described(request: Request) -> Response:
        return Response(document, media_type="application/json")

    return Starlette(routes=[Route(f"{PREFIX}/openapi.json", described), *(route(each) for each in OPERATIONS)])


def _call(settings: Settings, operation: Operation, ask: Ask) -> Any:
    with Project(settings) as project:
        project.follow()  # what was applied, not the file somebody is editing
        return operation.call(project, ask)


def _json(value: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode(value, enc_hook=str)
    return Response(body, status, media_type="application/json", headers=dict(headers or {}))


async def _body(request: Request, decoder: msgspec.json.Decoder[Any] | None) -> Any:
    if decoder is None:
        return None
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise RequestError(f"a body of at most {MOST_BYTES} bytes was expected")
    return wire.decode(decoder, data or b"{}")


def _tokens(settings: Settings, environ: Mapping[str, str] | None) -> dict[str, bytes]:
    """Who may ask, each with the secret that shows it."""
    found: dict[str, bytes] = {}
    for entry in settings.ui.tokens:
        who, equals, reference = entry.partition("=")
        if not equals or not who.strip():
            raise SettingsError(
                f"ui.tokens: {entry.partition(':')[0]!r} is no token.",
                hint="Write 'ann=env:ANN_TOKEN', a name and a reference.",
            )
        token = secret(reference.strip(), environ).encode()
        if len(token) < SHORTEST_TOKEN:
            raise SettingsError(f"ui.tokens: the secret of {who!r} has fewer than {SHORTEST_TOKEN} characters.")
        if token in found.values():
            raise SettingsError(f"ui.tokens: {who!r} has the same secret as another one.")
        found[who.strip() if ":" in who else f"person:{who.strip()}"] = token
    if not found:
        raise SettingsError(
            "the control API needs to know who may ask: ui.tokens is empty.",
            hint="In undrift.toml: [ui] tokens = ['ann=env:ANN_TOKEN'].",
        )
    return found


def _actor(tokens: Mapping[str, bytes], header: str) -> str | None:
    """Who a request comes from; all tokens are compared, each in constant time."""
    kind, _, given = header.partition(" ")
    if kind.lower() != "bearer":
        return None
    same = [who for who, token in tokens.items() if hmac.compare_digest(token, given.strip().encode())]
    return same[0] if same else None


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the operations."""
    bodies = [each.body for each in OPERATIONS if each.body is not None]
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys(bodies)), ref_template="#/components/schemas/{name}"
    )
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {name: {"type": "string"} for name in ("error", "path", "hint")},
    }
    refused = {"description": "What was wrong.", "content": _content({"$ref": "#/components/schemas/Error"})}
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        names = [part[1:-1] for part in each.path.split("/") if part.startswith("{")]
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ] + [
            {"name": name, "in": "query", "description": told, "schema": {"type": "string"}}
            for name, told in each.query.items()
        ]
        operation: dict[str, Any] = {
            "operationId": each.name,
            "summary": each.summary,
            "parameters": parameters,
            "responses": {
                "200": {"description": each.summary, "content": _content({"type": "object"})},
                **{str(status): refused for status in (400, 401, 404, 409, 422, 503)},
            },
        }
        if each.body is not None:
            reference = {"$ref": f"#/components/schemas/{each.body.__name__}"}
            operation["requestBody"] = {"required": False, "content": _content(reference)}
        paths.setdefault(PREFIX + each.path, {})[each.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "undrift control API", "version": __version__},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": error},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


class _Server(uvicorn.Server):
    """uvicorn that does not raise the signal again at its end, so that the exit code says how it went."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Answer what was asked, then end."""
        self.should_exit = True


def run(settings: Settings) -> int:
    """Serve the control API until SIGTERM or SIGINT; returns the exit code.

    Raises
    ------
    SettingsError : nobody may ask, see `application`.
    ServeError : the address cannot be bound.
    """
    app = application(settings)
    listening = socket.socket(socket.AF_INET6 if ":" in settings.ui.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.ui.host, settings.ui.port))
    except OSError as error:
        listening.close()
        where = f"{settings.ui.host}:{settings.ui.port}"
        raise ServeError(f"the control API cannot listen on {where}: {error.strerror}.", hint="--port N") from error
    host, port = listening.getsockname()[:2]
    sys.stdout.write(f"control API: http://{host}:{port}{PREFIX}, described at {PREFIX}/openapi.json\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    _Server(config).run(sockets=[listening])
    return 0
