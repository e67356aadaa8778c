"""The stand-in as a server of its own: an event loop in a thread, a port on loopback, a kubeconfig for clients."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from aiohttp import web

from stand_in.api import Api
from stand_in.faults import Faults
from stand_in.kubelet import Kubelet
from stand_in.objects import Objects
from stand_in.store import Json, Store

NAMESPACE = "featurise"
T = TypeVar("T")


class StandIn:
    """A running stand-in. Its methods may be called from any thread."""

    def __init__(self, folder: Path, images: Mapping[str, Sequence[str]], secrets: Mapping[str, str]) -> None:
        self.faults = Faults()
        self.folder = folder
        self._store = Store()
        known = dict(secrets)
        self._kubelet = Kubelet(self._store, self.faults, images, known, folder)
        self.api = Api(self._store, self._kubelet, Objects(known))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self._runner: web.AppRunner | None = None
        self.port = 0

    def start(self) -> None:
        """Listen, on the same port as before when there was one."""
        if not self._thread.is_alive():
            self._thread.start()
        self._call(self._listen())

    def stop_listening(self) -> None:
        """An outage: connections are cut and refused until `start`; pods go on."""
        self._call(self._silence())

    def close(self) -> None:
        """End every pod and the server."""
        self._call(self._silence())
        self._call(self._kubelet.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def started(self) -> int:
        """Containers started so far."""
        return self._kubelet.started

    def furnish(
        self,
        nodes: Sequence[str],
        *,
        refusing: frozenset[str] = frozenset(),
        instead: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Give the cluster nodes, some of which may be bad; see the kubelet's own words."""
        self._kubelet.nodes, self._kubelet.refusing, self._kubelet.instead = nodes, refusing, instead or {}

    def make_room(self) -> None:
        """Let the pods that are gated, or wait for a full cluster, have a node."""
        self._kubelet.room = True

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig file that leads here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "clusters": [{"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "contexts": [
                {"name": "stand-in", "context": {"cluster": "stand-in", "user": "tests", "namespace": NAMESPACE}}
            ],
            "users": [{"name": "tests", "user": {}}],
        }
        file.write_text(yaml.safe_dump(content))
        return file

    def pods(self) -> list[Json]:
        """The pods that the API knows now."""
        return self._call(self._pods())

    def delete(self, name: str) -> None:
        """Delete a pod as a person with kubectl does."""
        self._call(self._delete(name))

    def clone(self, name: str) -> None:
        """Add a second pod with the labels of another."""
        self._call(self._clone(name))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _listen(self) -> None:
        self._runner = web.AppRunner(self.api.app(), shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _silence(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _pods(self) -> list[Json]:
        return self._store.list("pods", NAMESPACE)

    async def _delete(self, name: str) -> None:
        pod = self._store.get("pods", NAMESPACE, name)
        assert pod is not None, f"no pod {name}"
        self._kubelet.delete(pod, None)

    async def _clone(self, name: str) -> None:
        pod = self._store.get("pods", NAMESPACE, name)
        assert pod is not None, f"no pod {name}"
        meta = {**pod["metadata"], "name": f"{name}-duplicate", "uid": f"{pod['metadata']['uid']}-duplicate"}
        duplicate = {**pod, "metadata": meta, "spec": {**pod["spec"]}, "status": {"phase": "Pending"}}
        self._kubelet.admit(self._store.put("pods", duplicate))


@contextmanager
def run(folder: Path, images: Mapping[str, Sequence[str]], secrets: Mapping[str, str]) -> Iterator[StandIn]:
    """A stand-in for the length of a block.

    Args:
        folder: where logs of pods and the kubeconfig go.
        images: local commands by image name; other images cannot be pulled.
        secrets: `NAME=value` lines by the name of the secret.
    """
    stand_in = StandIn(folder, images, secrets)
    stand_in.start()
    try:
        yield stand_in
    finally:
        stand_in.close()
