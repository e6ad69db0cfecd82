"""HTTP beside the protocol, on the same port: whether the daemon lives, and what it holds."""

from __future__ import annotations

from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessiond.runtime.manager import SessionManager
from sessiond.server.door import Door, check_request
from sessiond.version import VERSION


def make_app(door: Door, manager: SessionManager) -> Starlette:
    """The application behind one door."""

    async def healthz(_: Request) -> Response:
        """Alive; says nothing more, so it needs no token."""
        return PlainTextResponse("ok\n")

    async def status(request: Request) -> Response:
        """Pools and sessions, in numbers."""
        refusal = check_request(door, dict(request.headers))
        if refusal is not None:
            return PlainTextResponse(f"{refusal.reason}\n", status_code=refusal.status)
        pools = {name: profile.pool for name, profile in manager.profiles.items()}
        return JSONResponse(
            {
                "version": VERSION,
                "sessions": manager.count,
                "pools": {
                    name: {
                        "warm": len(pool.view.warm),
                        "creating": pool.view.creating,
                        "claimed": pool.view.claimed,
                        "removing": pool.view.removing,
                        "waiting": pool.view.waiting,
                        "error": pool.error,
                        **asdict(pool.counts),
                    }
                    for name, pool in pools.items()
                },
            }
        )

    return Starlette(routes=[Route("/healthz", healthz), Route("/status", status)])
