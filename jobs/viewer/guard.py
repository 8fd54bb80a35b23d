"""Who may ask the viewer: a host that is meant, and beyond this machine only who holds the token."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from jobs.errors import one_line
from pipeline.ledger import LedgerError
from pipeline.plan import PlanError
from pipeline.records import InputRejected
from pipeline.storage import StoreError

COOKIE = "condinst-view"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {
    # Scripts, styles, pictures and data come from here alone; nothing is sent anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self' blob:; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the first address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_log = logging.getLogger(__name__)


def loopback(host: str) -> bool:
    """Whether a host to listen at is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(token: str | None) -> Middleware:
    """What every request goes through: without a token the Host has to be this machine's.

    A page elsewhere whose name was made to point here (DNS rebinding) is thus refused; with a token it does
    not have it.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = _refusal(request, token)
        response = await _answer(request, handler) if refusal is None else refusal
        if refusal is None and token is not None and request.query.get("token"):
            response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
        response.headers.update(_HEADERS)
        return response

    return guarded


def _refusal(request: web.Request, token: str | None) -> web.Response | None:
    if token is None:
        name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
        return None if loopback(name) else _told(403, f"this server is not {one_line(name)[:100]}")
    shown = request.query.get("token") or request.cookies.get(COOKIE) or ""
    if hmac.compare_digest(shown.encode(), token.encode()):
        return None
    return _told(401, "open the address that condinst view printed: it holds the token")


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's response; what goes wrong is told in words."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _told(error.status, error.text or error.reason)
    except ValueError as error:
        return _told(400, str(error))
    except InputRejected as error:
        return _told(404, str(error))
    except (StoreError, LedgerError, PlanError) as error:
        return _told(502, str(error))
    except Exception as error:
        _log.exception("%s", request.path)
        return _told(500, type(error).__name__)


def _told(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
