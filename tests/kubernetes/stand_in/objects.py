"""Namespaces, and what lies in them beside pods: kept, told back, and removed with their namespace.

Nothing acts on these objects but two: a secret's values reach the containers that name it, and a request with a service
account's token may do what the roles in its namespace grant, no more.
"""

import base64
from collections.abc import MutableMapping

from aiohttp import web

from stand_in.store import Json

VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
TOKEN = "token-of-"


class Objects:
    """Handlers for all that is not a pod or an event. `secrets` is the kubelet's: `NAME=value` lines by name."""

    def __init__(self, secrets: MutableMapping[str, str]) -> None:
        self.secrets = secrets
        self.namespaces: dict[str, Json] = {}
        self._kept: dict[tuple[str, str, str], Json] = {}

    def routes(self, router: web.UrlDispatcher) -> None:
        """Add the paths; pods' own come before them."""
        router.add_get("/version/", self.version)
        router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.review)
        reviews = "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews"
        router.add_post(reviews, self.review)
        router.add_post("/api/v1/namespaces", self.create_namespace)
        router.add_get("/api/v1/namespaces/{namespace}", self.get_namespace)
        router.add_delete("/api/v1/namespaces/{namespace}", self.delete_namespace)
        router.add_post("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", self.token)
        for group in ("/api/v1", "/apis/rbac.authorization.k8s.io/v1", "/apis/batch/v1"):
            router.add_post(group + "/namespaces/{namespace}/{kind}", self.create)
            router.add_patch(group + "/namespaces/{namespace}/{kind}/{name}", self.change)

    def refusal(self, request: web.Request) -> str | None:
        """Why the caller may not; None when it may. Only service accounts are limited; anyone may ask for reviews."""
        account = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not account.startswith(TOKEN) or "/apis/authorization.k8s.io/" in request.path:
            return None
        namespace = request.match_info.get("namespace", "")
        after = request.path.partition(f"/namespaces/{namespace}/")[2].split("/")
        resource = "/".join([after[0], *after[2:]])
        watching = request.query.get("watch") in {"true", "True", "1"}
        verb = VERBS.get(request.method) or ("watch" if watching else "get" if len(after) > 1 else "list")
        return (
            None
            if self._granted(namespace, resource, verb)
            else f"{account.removeprefix(TOKEN)} cannot {verb} {resource} in namespace {namespace!r}"
        )

    def _granted(self, namespace: str, resource: str, verb: str) -> bool:
        return any(
            resource in rule["resources"] and verb in rule["verbs"]
            for (place, kind, _), role in self._kept.items()
            if (place, kind) == (namespace, "roles")
            for rule in role["rules"]
        )

    async def version(self, request: web.Request) -> web.StreamResponse:
        names = ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform")
        number = {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        return web.json_response(number | dict.fromkeys(names, "stand-in"))

    async def review(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        limited = "user" in asked["spec"] or TOKEN in request.headers.get("Authorization", "")
        wanted = asked["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
        allowed = not limited or self._granted(wanted.get("namespace", ""), resource, wanted["verb"])
        return web.json_response({**asked, "status": {"allowed": allowed}}, status=201)

    async def create_namespace(self, request: web.Request) -> web.StreamResponse:
        made = await request.json()
        self.namespaces[made["metadata"]["name"]] = made
        return web.json_response(made, status=201)

    async def get_namespace(self, request: web.Request) -> web.StreamResponse:
        found = self.namespaces.get(request.match_info["namespace"])
        return web.json_response(found or {"code": 404, "reason": "NotFound"}, status=200 if found else 404)

    async def delete_namespace(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["namespace"]
        self._kept = {key: item for key, item in self._kept.items() if key[0] != name}
        return web.json_response({"status": "Success", "removed": self.namespaces.pop(name, None)})

    async def token(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if (request.match_info["namespace"], "serviceaccounts", name) not in self._kept:
            return web.json_response({"code": 404, "reason": "NotFound"}, status=404)
        status = {"token": TOKEN + name, "expirationTimestamp": "2099-01-01T00:00:00Z"}
        return web.json_response({**await request.json(), "status": status}, status=201)

    async def change(self, request: web.Request) -> web.StreamResponse:
        """A merge patch, whole objects only: a job's template stays as it was made."""
        asked = request.match_info
        key = (asked["namespace"], asked["kind"], asked["name"])
        before, after = self._kept[key], await request.json()
        if key[1] == "jobs" and before["spec"]["template"] != after["spec"]["template"]:
            why = f'Job.batch "{key[2]}" is invalid: spec.template: Invalid value: field is immutable'
            return web.json_response({"code": 422, "reason": "Invalid", "message": why}, status=422)
        self._kept[key] = after
        return web.json_response(after)

    async def create(self, request: web.Request) -> web.StreamResponse:
        namespace, kind = request.match_info["namespace"], request.match_info["kind"]
        made: Json = await request.json()
        name = made["metadata"]["name"]
        if namespace not in self.namespaces:
            return web.json_response({"code": 404, "reason": "NotFound"}, status=404)
        if (namespace, kind, name) in self._kept:
            return web.json_response({"code": 409, "reason": "AlreadyExists"}, status=409)
        self._kept[namespace, kind, name] = made
        if kind == "secrets":
            values = {key: base64.b64decode(value).decode() for key, value in (made.get("data") or {}).items()}
            values |= made.get("stringData") or {}
            self.secrets[name] = "\n".join(f"{key}={value}" for key, value in values.items())
        return web.json_response(made, status=201)
