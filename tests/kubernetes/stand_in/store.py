"""Objects with resource versions, and the watchers that hear of each change."""

import asyncio
import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
KINDS = {"pods": "Pod", "events": "Event"}


def now(later: float = 0) -> str:
    """The time, or so many seconds later, as Kubernetes writes it; a deletionTimestamp holds the grace."""
    return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All pods and events. Used from one event loop only."""

    def __init__(self) -> None:
        self._version = 100
        self._objects: dict[str, dict[tuple[str, str], Json]] = {kind: {} for kind in KINDS}
        self._watchers: set[asyncio.Queue[tuple[str, str, Json]]] = set()

    def version(self) -> str:
        """The newest resource version."""
        return str(self._version)

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """One object, as it is kept."""
        return self._objects[kind].get((namespace, name))

    def list(self, kind: str, namespace: str) -> list[Json]:
        """The objects of a namespace, oldest first."""
        return [each for (place, _), each in self._objects[kind].items() if place == namespace]

    def put(self, kind: str, item: Json) -> Json:
        """Keep a new or changed object under its name."""
        meta = item["metadata"]
        key = (meta["namespace"], meta["name"])
        change = "MODIFIED" if key in self._objects[kind] else "ADDED"
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        self._objects[kind][key] = item
        self._tell(kind, change, item)
        return item

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Forget an object; its watchers hear of it."""
        item = self._objects[kind].pop((namespace, name), None)
        if item is not None:
            self._version += 1
            self._tell(kind, "DELETED", item)

    def watch(self) -> "asyncio.Queue[tuple[str, str, Json]]":
        """A queue of (kind, change, object) from now on; `unwatch` ends it."""
        queue: asyncio.Queue[tuple[str, str, Json]] = asyncio.Queue()
        self._watchers.add(queue)
        return queue

    def unwatch(self, queue: "asyncio.Queue[tuple[str, str, Json]]") -> None:
        """Stop telling a queue."""
        self._watchers.discard(queue)

    def _tell(self, kind: str, change: str, item: Json) -> None:
        for queue in self._watchers:
            queue.put_nowait((kind, change, copy.deepcopy(item)))


def selected(item: Json, labels: str, fields: str) -> bool:
    """Whether an object matches a label selector (=, ==, !=, key, !key) and a field selector (=)."""
    own: Mapping[str, str] = item["metadata"].get("labels") or {}
    return all(_label_holds(own, term.strip()) for term in labels.split(",") if term.strip()) and all(
        str(_field(item, term.partition("=")[0])) == term.partition("=")[2] for term in fields.split(",") if term
    )


def _label_holds(own: Mapping[str, str], term: str) -> bool:
    if "!=" in term:
        key, _, value = term.partition("!=")
        return own.get(key) != value
    if "=" in term:
        key, _, value = term.replace("==", "=").partition("=")
        return own.get(key) == value
    return term[1:] not in own if term.startswith("!") else term in own


def _field(item: Json, path: str) -> object:
    found: object = item
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
