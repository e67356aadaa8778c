"""The `process` launcher: the extractor in its own environment on this machine, CPU or the local GPU."""

import ctypes
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator

from extractor.core.exit_codes import Exit, Summary
from featurise.airflow import run_context
from featurise.airflow.retry_policy import failed, final_verdict, first_try
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import Evidence
from featurise.failures.log_lines import readable
from featurise.failures.taxonomy import Reason

GRACE_SECONDS = 60.0
"""For the extractor to save its part after SIGTERM."""
RENEW_SECONDS = 60.0
"""How often the run's leases are renewed."""
LOG_LINES = 50
PR_SET_PDEATHSIG = 1
NICENESS = 10
NOT_FOUND = 127
"""The exit code by which shells say that there is no such command."""
PASSED_ON = {
    *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "FEATURISE_WEIGHTS_CACHE"),
}
"""Of this process's environment, beside object storage's `AWS_*`: Airflow's own secrets stay with Airflow."""


class ProcessOperator(BaseOperator):
    """Runs the extractor for one shard as a local process in a process group of its own.

    Its lines appear readable in the task's log, each attempt is a row in the registry, and a failed one raises
    AttemptFailed with the taxonomy's verdict.

    :param spec: the dataset under its backbone.
    :param shard: the shard, as `plan` wrote it down. (templated)
    """

    template_fields: Sequence[str] = ("shard",)

    def __init__(self, *, spec: FeatureSetSpec, shard: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.shard = shard
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> str:
        """Run one attempt; returns the address of the shard's file."""
        from featurise.registry import attempts, leases, shards
        from featurise.steps import extract
        from featurise.steps.plan import Shard

        run = run_context.current_run(self.spec, context)
        shard = Shard.model_validate(self.shard)
        if (registered := shards.find(run, shard.name)) is not None:
            self.log.info("The shard is registered already; nothing is left to do for it.")
            return str(registered.uri)
        ti = context["ti"]
        past = attempts.of(run, shard.name)
        for lost in (each for each in past if each.running):
            attempts.failed(lost.id, Evidence(node=lost.node), Reason.UNKNOWN, "retry", "its task ended before it did")
        past = attempts.of(run, shard.name)
        # After a task is cleared its tries begin anew; what failed before that does not count.
        retries = self.retries or 0
        earlier = attempts.failures(past, first_try(ti.max_tries, retries))
        if (over := final_verdict(past, earlier, retries + 1)) is not None:
            raise over
        attempt = extract.following(len(past) + 1, earlier)
        with tempfile.TemporaryDirectory(prefix="featurise-") as folder:
            job = extract.specification(run, shard, attempt, summary_path=str(Path(folder) / "summary.json"))
            leases.renew(run)
            row = attempts.begin(
                run,
                shard.name,
                number=attempt.number,
                try_number=ti.try_number,
                launcher="process",
                place=_node(),
                batch_size=attempt.batch_size,
            )
            try:
                evidence = self._run(job, run)
            except leases.LeaseLost as error:
                attempts.failed(row, Evidence(node=_node()), Reason.UNKNOWN, "fail", str(error))
                raise
        if evidence.exit_code == Exit.OK:
            attempts.succeeded(row, evidence.node, evidence.summary)
            return job.output_uri
        raise failed(row, evidence, earlier, retries + 1)

    def _run(self, job: Any, run: Run) -> Evidence:
        from featurise.settings import settings

        environment = {
            name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("AWS_")
        }
        last: deque[str] = deque(maxlen=LOG_LINES)
        late = threading.Event()
        executable = settings().extractor.absolute()
        try:
            self._process = process = subprocess.Popen(
                [str(executable), *job.argv],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,
                preexec_fn=_prepare,
            )
        except OSError as error:
            why = f"{executable} cannot be started: {error.strerror}; set FEATURISE_EXTRACTOR to the extractor"
            return Evidence(node=_node(), exit_code=NOT_FOUND, log_tail=(why,))
        limit = threading.Timer(job.timeout_seconds, self._pass_limit, (late,))
        limit.daemon = True
        limit.start()
        try:
            self._follow(process, run, last)
            code = process.wait()
        finally:
            limit.cancel()
            self.on_kill()
        return Evidence(
            node=_node(),
            exit_code=code if code >= 0 else 128 - code,
            summary=_summary(job.summary_path),
            deadline=f"the attempt passed its limit of {job.timeout_seconds} s" if late.is_set() else "",
            log_tail=tuple(last),
        )

    def _follow(self, process: "subprocess.Popen[str]", run: Run, last: "deque[str]") -> None:
        """Tell what the extractor tells until it is silent for good; keep the run's leases alive meanwhile."""
        from featurise.registry import leases

        renewed = time.monotonic()
        for line in process.stdout or ():
            text = readable(line.rstrip("\n"))
            last.append(text)
            self.log.info(text)
            if time.monotonic() - renewed > RENEW_SECONDS:
                renewed = time.monotonic()
                if missed := leases.renew_if_possible(run):
                    self.log.warning(missed)

    def _pass_limit(self, late: threading.Event) -> None:
        late.set()
        self.on_kill()

    def on_kill(self) -> None:
        """End the extractor and what it started: SIGTERM, to let it save its part, then SIGKILL."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _prepare() -> None:
    """In the new process: SIGTERM when the task's process dies without a word; Airflow goes first on a busy CPU."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.nice(NICENESS)


def _node() -> str:
    return os.uname().nodename


def _summary(path: str | None) -> Summary | None:
    file = Path(path or "")
    return Summary.model_validate_json(file.read_text()) if file.is_file() else None
