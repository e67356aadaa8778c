#!/usr/bin/env bash
# Of a pod that has ended, the triggerer's watch of events asks the API without a pause
# (apache-airflow-providers-cncf-kubernetes 10.25.0).
#
# Input: a pod that has succeeded before its trigger first looks at it, as a short or an evicted one does. Expected: the
# watch of its events ends with the pod, as its log line says ("reached terminal phase ...; stopping event watch").
# Seen: the hook's generator returns, and the manager's loop around it calls it again at once. Until the trigger looks at
# the pod's phase again and cancels the watch, every turn is a request for the pod and a line in the task's log: 5 s with
# the trigger's default interval, for each such pod. A hook that keeps the pod for a moment, and so answers without a
# request, never gives the event loop up, and no other trigger of the process gets its turn.
# Source: airflow/providers/cncf/kubernetes/utils/pod_manager.py (AsyncPodManager.watch_pod_events),
# hooks/kubernetes.py (AsyncKubernetesHook.watch_pod_events), triggers/pod.py (_wait_for_pod_start).
#
# Featurise's hook pauses there: plugins/featurise/airflow/triggers/pod.py;
# tests/kubernetes/test_waiting.py (a pod that ended unseen keeps no other trigger waiting).
#
# Run: findings/cncf-kubernetes-watch-without-pause.sh. It fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
	apache-airflow==3.3.2 apache-airflow-providers-cncf-kubernetes==10.25.0
cd "$folder"
export AIRFLOW_HOME="$folder/home" AIRFLOW__LOGGING__LOGGING_LEVEL=ERROR
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
from importlib.metadata import version

from aiohttp import web
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager
from kubernetes.client import V1ObjectMeta, V1Pod

SECONDS = 2
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "short"}, "status": {"phase": "Succeeded"}}
asked = []


async def answer(request):
    asked.append(request.path)
    return web.json_response(POD)


async def main():
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = "http://127.0.0.1:{}".format(runner.addresses[0][1])
    cluster = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
    }
    hook = AsyncKubernetesHook(kubernetes_conn_id=None, in_cluster=False, config_dict=cluster)
    manager = AsyncPodManager(async_hook=hook)
    pod = V1Pod(metadata=V1ObjectMeta(name="short", namespace="here"))
    watching = asyncio.create_task(manager.watch_pod_events(pod, startup_check_interval=5))
    await asyncio.wait({watching}, timeout=SECONDS)
    ended = watching.done()
    watching.cancel()
    await runner.cleanup()
    print(f"provider {version('apache-airflow-providers-cncf-kubernetes')}: {len(asked)} requests in {SECONDS} s "
          f"for a pod that has succeeded; the watch has ended: {ended}")
    assert not ended
    assert len(asked) > 2 * SECONDS
    assert {path.rsplit("/", 2)[1:] == ["pods", "short"] for path in asked} == {True}


asyncio.run(main())
PYTHON
