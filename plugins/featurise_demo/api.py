"""Airflow's public REST API, as far as the demo and the tests use it."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 120


class ApiError(RuntimeError):
    """Raised when Airflow answers with an error; `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, detail: str) -> None:
        super().__init__(f"Airflow refused {method} {path} with {status}: {detail}")
        self.status = status


class Api:
    """A logged-in client; the token is fetched at the first call and again when it has expired."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._token = ""

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request below /api/v2; raises ApiError, or OSError when nothing answers."""
        if not self._token:
            self._token = self._send("POST", "/auth/token", self._login, "")["access_token"]
        text = f"?{urllib.parse.urlencode(query, doseq=True)}" if query else ""
        try:
            return self._send(method, f"/api/v2{path}{text}", body, self._token)
        except ApiError as error:
            if error.status != 401:
                raise
            self._token = ""
            return self.call(method, path, body, **query)

    def _send(self, method: str, path: str, body: Any, token: str) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise ApiError(method, path, error.code, error.read().decode(errors="replace")[:2000]) from error

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page outside the API."""
        if not self._token:
            self.call("GET", "/version")
        headers = {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def health(self) -> dict[str, Any]:
        """State of scheduler, DAG processor, triggerer and database."""
        parts: dict[str, Any] = self._send("GET", "/api/v2/monitor/health", None, "")
        return parts

    def dag_ids(self) -> list[str]:
        """Ids of the DAGs that Airflow knows."""
        return sorted(dag["dag_id"] for dag in self.call("GET", "/dags", limit=100)["dags"])

    def import_errors(self) -> list[dict[str, Any]]:
        """What the DAG list shows as import errors: `filename` and `stack_trace` of each."""
        errors: list[dict[str, Any]] = self.call("GET", "/importErrors")["import_errors"]
        return errors

    def pause(self, dag_id: str, *, paused: bool) -> None:
        """Pause or unpause a DAG."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused})

    def pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, or change it."""
        # A task that waits for its pod without a worker holds a GPU all the same.
        body = {"name": name, "slots": slots, "description": description, "include_deferred": True}
        try:
            self.call("POST", "/pools", body)
        except ApiError as error:
            if error.status != 409:
                raise
            del body["name"]
            self.call("PATCH", f"/pools/{name}", {**body, "pool": name})

    def trigger(self, dag_id: str, batch: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a batch by hand; its run id."""
        body = {"logical_date": None, "partition_key": batch, "conf": conf or {}}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def backfill(self, dag_id: str, first: str, last: str, reprocess: str, max_active_runs: int = 1) -> int:
        """Start a backfill of the batches from `first` to `last` (ISO days, both included); its id."""
        body = {
            "dag_id": dag_id,
            "from_date": f"{first}T00:00:00Z",
            "to_date": f"{last}T23:59:59Z",
            "reprocess_behavior": reprocess,
            "max_active_runs": max_active_runs,
        }
        return int(self.call("POST", "/backfills", body)["id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The runs of a DAG, newest first."""
        found: list[dict[str, Any]] = self.call("GET", f"/dags/{dag_id}/dagRuns", order_by="-id", limit=100)["dag_runs"]
        return found

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        found: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run, mapped ones each by itself."""
        path = f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances"
        found: list[dict[str, Any]] = self.call("GET", path, limit=100)["task_instances"]
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """What a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self.call("GET", path, map_index=map_index, deserialize="false")["value"]
        return json.loads(value) if isinstance(value, str) else value

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1, map_index: int = -1) -> str:
        """A task's log as lines of text."""
        path = f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}/logs/{attempt}"
        content = self.call("GET", path, map_index=map_index, full_content="true")["content"]
        return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in content)
