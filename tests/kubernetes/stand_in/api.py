"""The HTTP side: paths, verbs, selectors, watches and log streams as the Kubernetes API has them."""

import asyncio
import copy
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from stand_in.kubelet import Kubelet
from stand_in.objects import Objects
from stand_in.store import KINDS, Json, Store, now, selected

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Handlers over a store and its kubelet; keeps the (time, method, path) of every request."""

    def __init__(self, store: Store, kubelet: Kubelet, objects: Objects) -> None:
        self.store = store
        self.kubelet = kubelet
        self.objects = objects
        self.requests: list[tuple[float, str, str]] = []
        self.refusing: int | None = None
        """The HTTP status that every request is answered with; None: the API works."""
        self.lose_answers = 0
        """Creations whose answer is lost although the pod is made."""
        self.cut_logs = False
        """Whether a log stream breaks off after its first line."""
        self.cut_watches = False
        """Whether a watch is closed as soon as it has begun."""
        self.slow_creations = 0.0
        """Seconds between making a pod and answering that it was made."""
        self.quota: int | None = None
        self.created: list[Json] = []
        """Each pod as it was asked for."""

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._gate], client_max_size=8 * 1024 * 1024)
        base = "/api/v1/namespaces/{namespace}"
        app.router.add_post(f"{base}/pods", self.create)
        app.router.add_get(f"{base}/{{kind:pods|events}}", self.list_or_watch)
        app.router.add_get(f"{base}/pods/{{name}}", self.get)
        app.router.add_get(f"{base}/pods/{{name}}/status", self.get)
        app.router.add_patch(f"{base}/pods/{{name}}", self.patch)
        app.router.add_patch(f"{base}/pods/{{name}}/status", self.patch_status)
        app.router.add_delete(f"{base}/pods/{{name}}", self.delete)
        app.router.add_get(f"{base}/pods/{{name}}/log", self.log)
        self.objects.routes(app.router)
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((time.time(), request.method, request.path))
        if self.refusing is not None:
            return failure(self.refusing, "ServiceUnavailable", "the server is currently unable to handle the request")
        if why := self.objects.refusal(request):
            return failure(403, "Forbidden", f"forbidden: {why}")
        return await handler(request)

    async def create(self, request: web.Request) -> web.StreamResponse:
        pod = await request.json()
        self.created.append(copy.deepcopy(pod))
        meta = pod["metadata"]
        namespace = request.match_info["namespace"]
        if not pod["spec"].get("containers") or not pod["spec"]["containers"][0].get("image"):
            return failure(422, "Invalid", f'Pod "{meta["name"]}" is invalid: spec.containers[0].image: Required value')
        if self.store.get("pods", namespace, meta["name"]) is not None:
            return failure(409, "AlreadyExists", f'pods "{meta["name"]}" already exists')
        if self.quota is not None and len(self.store.list("pods", namespace)) >= self.quota:
            why = f"exceeded quota: gpus, requested: pods=1, used: pods={self.quota}, limited: pods={self.quota}"
            return failure(403, "Forbidden", f'pods "{meta["name"]}" is forbidden: {why}')
        meta |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        made = self.store.put("pods", {"apiVersion": "v1", "kind": "Pod", **pod, "status": {"phase": "Pending"}})
        answer = copy.deepcopy(made)
        self.kubelet.admit(made)
        await asyncio.sleep(self.slow_creations)
        if self.lose_answers > 0:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(answer, status=201)

    async def list_or_watch(self, request: web.Request) -> web.StreamResponse:
        kind, query = request.match_info["kind"], request.query
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        if query.get("watch") in {"true", "True", "1"}:
            return await self._watch(request, kind, labels, fields)
        items = [
            each for each in self.store.list(kind, request.match_info["namespace"]) if selected(each, labels, fields)
        ]
        meta = {"resourceVersion": self.store.version()}
        return web.json_response({"apiVersion": "v1", "kind": f"{KINDS[kind]}List", "metadata": meta, "items": items})

    async def _watch(self, request: web.Request, kind: str, labels: str, fields: str) -> web.StreamResponse:
        seconds = float(request.query.get("timeoutSeconds", 300))
        since = int(request.query.get("resourceVersion") or 0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue = self.store.watch()
        try:
            for item in self.store.list(kind, request.match_info["namespace"]):
                if selected(item, labels, fields) and int(item["metadata"]["resourceVersion"]) > since:
                    await response.write(json.dumps({"type": "ADDED", "object": item}).encode() + b"\n")
            until = time.monotonic() + seconds
            while not self.cut_watches and (left := until - time.monotonic()) > 0 and self.refusing is None:
                try:
                    of, change, item = await asyncio.wait_for(queue.get(), min(left, 0.5))
                except TimeoutError:
                    continue
                if of == kind and selected(item, labels, fields):
                    await response.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
        finally:
            self.store.unwatch(queue)
        return response

    async def get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._pod(request))

    async def patch(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        changes = await request.json()
        if changes == [{"op": "remove", "path": "/spec/schedulingGates"}]:
            del pod["spec"]["schedulingGates"]
            return web.json_response(self.store.put("pods", pod))
        labels = pod["metadata"].setdefault("labels", {})
        labels |= changes.get("metadata", {}).get("labels", {})
        return web.json_response(self.store.put("pods", pod))

    async def patch_status(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        pod["status"] |= (await request.json())["status"]
        return web.json_response(self.store.put("pods", pod))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        body = await request.json() if request.can_read_body else {}
        only = (body or {}).get("preconditions") or {}
        if any(pod["metadata"][name] != value for name, value in only.items()):
            return failure(409, "Conflict", f"the object is not as the preconditions say: {only}")
        grace = request.query.get("gracePeriodSeconds") or (body or {}).get("gracePeriodSeconds")
        self.kubelet.delete(pod, None if grace is None else float(grace))
        return web.json_response(pod)

    async def log(self, request: web.Request) -> web.StreamResponse:
        pod, query = self._pod(request), request.query
        state = (pod["status"].get("containerStatuses") or [{}])[0].get("state", {})
        if not state or "waiting" in state:
            return failure(
                400, "BadRequest", f'container "base" in pod "{pod["metadata"]["name"]}" is waiting to start'
            )
        file, stamped = self.kubelet.log_file(pod), query.get("timestamps") in {"true", "True"}
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        oldest = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"])) if "sinceSeconds" in query else None
        for line in await self._lines(file, query.get("tailLines")):
            if oldest is None or datetime.fromisoformat(line.split(b" ", 1)[0].decode()) >= oldest:
                await response.write(_shown(line, stamped))
                if self.cut_logs:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
        if query.get("follow") in {"true", "True"}:
            await self._follow(response, pod, file, stamped)
        return response

    async def _lines(self, file: Path, tail: str | None) -> list[bytes]:
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        return lines[-int(tail) :] if tail else lines

    async def _follow(self, response: web.StreamResponse, pod: Json, file: Path, stamped: bool) -> None:
        with file.open("rb") as log:
            log.seek(0, 2)
            while True:
                alive = self.kubelet.running(pod)
                while line := log.readline():
                    await response.write(_shown(line, stamped))
                if not alive:
                    return
                await asyncio.sleep(0.1)

    def _pod(self, request: web.Request) -> Json:
        name = request.match_info["name"]
        pod = self.store.get("pods", request.match_info["namespace"], name)
        if pod is None:
            body = json.dumps(status(404, "NotFound", f'pods "{name}" not found'))
            raise web.HTTPNotFound(text=body, content_type="application/json")
        return pod


def _shown(line: bytes, stamped: bool) -> bytes:
    return line if stamped else line.partition(b" ")[2]


def status(code: int, reason: str, message: str) -> Json:
    """A failure as the API words it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def failure(code: int, reason: str, message: str) -> web.Response:
    """The answer that carries a failure."""
    return web.json_response(status(code, reason, message), status=code)
