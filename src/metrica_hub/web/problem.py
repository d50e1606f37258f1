"""Errors as ``application/problem+json`` (RFC 9457), with the request's id in every answer."""

from __future__ import annotations

import math
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from aiohttp import web

from metrica_fleet.errors import FleetError, NotNow, Unusable
from metrica_hub.errors import BadRequest, Conflict, Forbidden, Invalid, NotThere, StoreAway, TooMany, Unknown

if TYPE_CHECKING:
    from metrica_hub.web.routing import Handler

_KNOWN: Final = web.RequestKey("request_id", str)
REQUEST_ID: Final = "X-Request-Id"
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RETRY_AFTER_S: Final = "5"
_INVALID: Final = ', error="invalid_token"'
_STATUS: Final[dict[type[Unusable], HTTPStatus]] = {
    NotThere: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unknown: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    TooMany: HTTPStatus.TOO_MANY_REQUESTS,
}
_REFUSALS: Final = tuple(_STATUS)

_log = structlog.get_logger()


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which part of the request is at fault: a parameter, or what a JSON pointer leads to in the body."""

    detail: str
    parameter: str | None = None
    pointer: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457, with the request's id and the parts at fault."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: tuple[Fault, ...] = ()


def request_id_of(request: web.Request) -> str:
    """Return the id of ``request``: the client's own where it is a reasonable one."""
    known = request.get(_KNOWN)
    if known is None:
        offered = request.headers.get(REQUEST_ID, "")
        known = offered if _ID.fullmatch(offered) else uuid.uuid4().hex
        request[_KNOWN] = known
    return known


def problem(
    request: web.Request, status: HTTPStatus, slug: str, detail: str, errors: tuple[Fault, ...] = ()
) -> web.Response:
    """Return the answer that says what is wrong."""
    body = Problem(
        type=f"/problems/{slug}",
        title=status.phrase,
        status=status.value,
        detail=detail,
        instance=request.path,
        request_id=request_id_of(request),
        errors=errors,
    )
    response = web.Response(status=status, body=msgspec.json.encode(body))
    response.content_type = "application/problem+json"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    return response


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into its answer."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return _of_http(request, error)
    except BadRequest as error:
        faults = (Fault(parameter=error.parameter, detail=error.message),)
        return problem(request, HTTPStatus.BAD_REQUEST, error.reason, error.message, faults)
    except Invalid as error:
        faults = (Fault(pointer=error.pointer, detail=error.message),)
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, error.message, faults)
    except _REFUSALS as error:
        return _of_unusable(request, error)
    except NotNow as error:
        _log.warning(
            "request.unserved",
            error_kind=error.reason,
            error=error.message,
            request_id=request_id_of(request),
        )
        is_store = isinstance(error, StoreAway)
        detail = "The database can't be asked now; try again soon." if is_store else error.message
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, error.reason, detail)
    except Exception as error:
        if isinstance(error, ConnectionResetError):
            raise  # the client went away: there is nobody to tell
        kind = error.reason if isinstance(error, FleetError) else type(error).__name__
        _log.exception("request.failed", error_kind=kind, path=request.path, request_id=request_id_of(request))
        detail = "The hub made a mistake; its log says more under this request's id."
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def _of_unusable(request: web.Request, error: Unusable) -> web.Response:
    answer = problem(request, _STATUS[type(error)], error.reason, error.message)
    match error:
        case Unknown(given=given):
            answer.headers["WWW-Authenticate"] = f'Bearer realm="metrica"{_INVALID if given else ""}'
        case TooMany(retry_after_s=wait_s):
            answer.headers["Retry-After"] = str(math.ceil(wait_s))
        case _:
            pass
    return answer


def _of_http(request: web.Request, error: web.HTTPException) -> web.Response:
    status = HTTPStatus(error.status)
    match error:
        case web.HTTPMethodNotAllowed(allowed_methods=allowed):
            methods = ", ".join(sorted(allowed))
            answer = problem(request, status, "method-not-allowed", f"{request.path} answers to {methods} only.")
            answer.headers["Allow"] = methods
            return answer
        case web.HTTPNotFound():
            return problem(request, status, "not-found", f"There is nothing at {request.path}.")
        case _:
            return problem(request, status, status.phrase.lower().replace(" ", "-"), error.text or status.phrase)
