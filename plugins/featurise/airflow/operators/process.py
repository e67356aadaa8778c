"""The `process` launcher: the extractor in its own environment on this machine, CPU or the local GPU."""

import ctypes
import logging
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_fixed

from extractor.core import memory
from featurise.airflow import run_context
from featurise.airflow.retry_policy import extract_options, first_try, outages, outages_waited_out
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.run import Run
from featurise.failures.classify import OOM_KILLED, Evidence
from featurise.failures.log_lines import lines, readable
from featurise.failures.pod_evidence import last_word
from featurise.failures.taxonomy import Failed, Reason

if TYPE_CHECKING:
    from featurise.steps.extract import Launch

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
        super().__init__(**{**kwargs, **extract_options(spec.limits.retries)})
        self.spec = spec
        self.shard = shard
        self._launch: Launch | None = None
        self._process: subprocess.Popen[str] | None = None

    @property
    def verdicts(self) -> Sequence[Failed] | None:
        """How the round's earlier attempts failed; None before the registry said so."""
        return None if self._launch is None else self._launch.earlier

    def execute(self, context: Any) -> str:
        """Run one attempt; returns the address of the shard's file."""
        with outages_waited_out(context):
            return self._execute(context)

    def _execute(self, context: Any) -> str:
        from featurise.registry import attempts, leases
        from featurise.steps import extract
        from featurise.steps.plan import Shard

        run = run_context.current_run(self.spec, context)
        shard = Shard.model_validate(self.shard)
        ti = context["ti"]
        extract.write_off_lost(run, shard, "its task ended before it did")
        launch = self._launch = extract.prepare(run, shard, first_try(ti.max_tries, self.retries or 0))
        self.log.info(launch.told)
        if launch.registered is not None:
            self.log.info("Shard already registered; skipping.")
            return launch.registered
        if launch.final is not None:
            raise launch.final
        with tempfile.TemporaryDirectory(prefix="featurise-") as folder:
            summary_path = str(Path(folder) / "summary.json")
            job = extract.specification(run, shard, launch.attempt, summary_path=summary_path)
            told = {"try_number": ti.try_number, "map_index": ti.map_index}
            launch = extract.begin(launch, launcher="process", place=_node(), **told)
            try:
                evidence = self._run(job, run)
            except leases.LeaseLost as error:
                attempts.failed(launch.row or 0, Evidence(node=_node()), Reason.UNKNOWN, "fail", str(error))
                raise
        self._conclude(launch, evidence)
        return job.output_uri

    def _conclude(self, launch: "Launch", evidence: Evidence) -> None:
        """Write down how the attempt ended: what it has done must not be lost to a registry that is down just now."""
        from featurise.settings import settings
        from featurise.steps import extract

        for attempt in Retrying(
            retry=retry_if_exception_type(outages()),
            stop=stop_after_delay(settings().outage),
            wait=wait_fixed(settings().outage_poll_seconds),
            before_sleep=before_sleep_log(logging.getLogger(__name__), logging.WARNING),
            reraise=True,
        ):
            with attempt:
                extract.conclude(launch, evidence)

    def _run(self, job: Any, run: Run) -> Evidence:
        from featurise.settings import settings

        environment = {
            name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("AWS_")
        }
        last: deque[str] = deque(maxlen=LOG_LINES)
        late = threading.Event()
        executable = settings().extractor.absolute()
        kills = memory.kills()
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
        summary, message = last_word(_read(Path(job.summary_path or "")))
        killed = code == -signal.SIGKILL and not late.is_set()
        taken = (memory.peak(resource.RUSAGE_CHILDREN, "it"), memory.left()) if killed else ()
        return Evidence(
            node=_node(),
            exit_code=code if code >= 0 else 128 - code,
            terminated=OOM_KILLED if killed and memory.kills() > kills else "",
            memory=", ".join(filter(None, taken)),
            summary=summary,
            message=message,
            deadline=f"the attempt exceeded its limit of {job.timeout_seconds} s" if late.is_set() else "",
            log_tail=tuple(last),
        )

    def _follow(self, process: "subprocess.Popen[str]", run: Run, last: "deque[str]") -> None:
        """Tell what the extractor tells until it is silent for good; keep the run's leases alive meanwhile."""
        from featurise.registry import leases

        renewed = time.monotonic()
        for line in lines(process.stdout) if process.stdout else ():
            text = readable(line)
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


def _read(file: Path) -> str | None:
    """What the extractor left; nothing when it did not come so far."""
    return file.read_text(errors="replace") if file.is_file() else None
