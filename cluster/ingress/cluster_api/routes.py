"""`GET /cluster` and `GET /cluster/events`: the cluster for the page at /, and for other programs."""

import asyncio
import json

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from cluster.ingress.cluster_api.view import ClusterView
from cluster.ingress.cluster_api.viewers import Viewer
from cluster.ingress.http_protocol import EVENTS_PATH
from cluster.ingress.responses import EVENT_HEADERS, while_connected

SEND_TIMEOUT_S = 20.0  # behind servers that do not hang up on those who read nothing (`http_protocol.STALL_S`)


def add_cluster_routes(app: FastAPI, view: ClusterView) -> None:
    routes = ClusterRoutes(view)
    app.add_api_route("/cluster", routes.cluster, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route(EVENTS_PATH, routes.events, methods=["GET", "HEAD"], response_model=None)


class ClusterRoutes:
    def __init__(self, view: ClusterView) -> None:
        self._view = view

    async def cluster(self, request: Request) -> Response:
        found = await self._view.picture()
        content = await asyncio.to_thread(json.dumps, found)
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return EventsResponse(self._view, await self._view.join())


class EventsResponse(Response):
    """A viewer's stream, until it leaves, is dropped or is sent away."""

    def __init__(self, view: ClusterView, viewer: Viewer) -> None:
        super().__init__()
        self._view = view
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_frames(send))
        except TimeoutError:
            return  # it reads nothing; the server hangs up
        finally:
            self._view.viewers.leave(self._viewer)

    async def _send_frames(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
        async for frame in self._viewer.frames():
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
