"""The server of a live page (`initio[serve]`): one page and one address that takes changes, both behind a token."""

from __future__ import annotations

import json
import secrets
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from initio.core.errors import InitioError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from initio.api.live import Live

__all__ = ["application", "bound", "run"]

LONGEST = 2**18
"""Most bytes of a request."""
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"}


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at a loopback address; port 0 takes a free one.

    Raises:
        InitioError: an address beyond this machine, or one that is taken.
    """
    try:
        loopback = ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        remedy = "Leave --host out; from another machine, forward the port: ssh -L 8477:127.0.0.1:8477 HOST."
        raise InitioError("a loopback address such as 127.0.0.1", f"{host!r} came", where="--host", remedy=remedy)
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen()
    except (OSError, OverflowError) as error:
        made.close()
        why = getattr(error, "strerror", None) or str(error)
        remedy = "Choose another --port, or --port 0 for a free one."
        raise InitioError("a free port", f"port {port} of {host} cannot be taken: {why}", where="--port", remedy=remedy) from error
    return made


def application(live: Live, token: str) -> Starlette:
    """GET /TOKEN/ is the page, POST /TOKEN/change takes changes as JSON and returns the page's data or {"error": …}."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import HTMLResponse, PlainTextResponse
        from starlette.responses import Response as Answer
        from starlette.routing import Route
    except ImportError as error:
        raise InitioError("starlette and uvicorn", "they are not installed", where="serve", remedy="pip install 'initio[serve]'") from error
    from initio.render.html import lively

    first = lively(live.payload())

    def strange(request: Request) -> bool:
        return not secrets.compare_digest(request.path_params["token"].encode(), token.encode())

    def page(request: Request) -> Response:
        return PlainTextResponse("Not found", 404, HEADERS) if strange(request) else HTMLResponse(first, headers=HEADERS)

    def answer(body: bytes) -> tuple[dict[str, Any], int]:
        try:
            return live.payload(json.loads(body)), 200
        except InitioError as error:
            return {"error": str(error)}, 422
        except ValueError as error:
            return {"error": f"not JSON: {error}"}, 400
        except Exception as error:  # the user's own code under new arguments
            return {"error": f"{type(error).__name__}: {error}"}, 422

    async def change(request: Request) -> Response:
        if strange(request):
            return PlainTextResponse("Not found", 404, HEADERS)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return PlainTextResponse("Changes are application/json", 415, HEADERS)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST:
                return PlainTextResponse("Too long", 413, HEADERS)
        data, status = await run_in_threadpool(answer, bytes(body))
        text = json.dumps(data, allow_nan=False, ensure_ascii=False)
        return Answer(text.encode("utf-8", "replace"), status, HEADERS, "application/json")

    return Starlette(routes=[Route("/{token}/", page), Route("/{token}/change", change, methods=["POST"])])


def run(app: Starlette, listener: socket.socket) -> None:
    """Answer until interrupted."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
    server.run(sockets=[listener])
