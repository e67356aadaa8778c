"""`python -m featurise_demo up|down`: the whole platform on this machine, two nights, both backbones."""

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from extractor.core.backbone_specs import specs
from extractor.core.exit_codes import ExtractorError
from featurise.errors import FeaturiseError
from featurise.settings import PREFIX
from featurise_demo import declared, night, photographs, platform, processes, state, weights
from featurise_demo.airflow import Airflow
from featurise_demo.api import Api, ApiError
from featurise_demo.show import LiveOutcomes, console, outcomes, say

UP_SECONDS = 600.0
DOWN_SECONDS = 120.0
DAGS = tuple(f"photos__{backbone}" for backbone in specs())
DECLARED = (PREFIX, *(f"{backbone.upper()}_" for backbone in specs()))
"""How the variables begin that the settings and `dags/featurise.yaml` read."""
FAILURES = (
    FeaturiseError,
    ExtractorError,
    processes.ProcessDied,
    ApiError,
    subprocess.CalledProcessError,
    OSError,  # TimeoutError, FileNotFoundError and their like
)

app = App(name="featurise_demo", help="The whole platform on this machine: two nights, both detectors.")


@app.command
def up(
    *,
    images: Path | None = None,
    given: Path | None = None,
    keep: Annotated[bool, Parameter(negative="")] = False,
    folder: Path = state.FOLDER,
) -> int:
    """Run two nights and say what came of them.

    Parameters
    ----------
    images
        A folder of images, instead of the photographs that scikit-image and scikit-learn bring along.
    given
        COCO annotations of these images: their boxes are featurised, in place of those that the networks find.
    keep
        Leave everything running, to look around; `down` ends it.
    folder
        Where all state lies.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = folder.absolute()
    try:
        return _up(images, given, folder, keep=keep)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except FAILURES as error:
        say(f"{_told(error)}\nThe demo has ended; logs, if it came so far: {folder}/logs, {folder}/airflow/processes")
        return 1


def _up(images: Path | None, given: Path | None, folder: Path, *, keep: bool) -> int:
    started = time.monotonic()
    declared.check(given)
    batches = photographs.batches(images, state.EXTRACTOR.with_name("python"))
    weights.download(state.CACHE / "weights", state.EXTRACTOR, say)
    checkpoints = weights.provide(state.CACHE / "weights", state.EXTRACTOR, say)
    nights = state.nights(folder, datetime.datetime.now(datetime.UTC))
    nights.save(folder)
    running, ours = state.running(folder), None
    if running is not None and given is not None:
        raise FeaturiseError("a demo is up, and its declaration cannot be exchanged; `make demo-down` ends it")
    try:
        if running is None:
            say("starting object storage, database, and Airflow's four processes")
            ours = _serve(folder, _variables(checkpoints, nights, declared.declaration(folder, given)))
            running = _wait(folder, ours)
        say(f"Airflow: {running.url} (user {running.user}, password {running.password})")
        ended = _both_nights(running, nights, batches)
        synthetic = [checkpoint.backbone for checkpoint in checkpoints if checkpoint.synthetic]
        failed = _tell(ended, synthetic)
        if not failed:
            state.Nights(nights.days, done=True).save(folder)
        say(f"{time.monotonic() - started:.0f} s in all")
        if keep or ours is None:
            say(f"Left running: {running.url}, user {running.user}, password {running.password}")
            say(f"`. {os.path.relpath(folder)}/env` sets the variables to look by hand; `make demo-down` ends it")
            ours = None
        return 1 if failed else 0
    finally:
        if ours is not None:
            say("ending every process")
            _end(ours.process.pid)


@app.command
def down(*, folder: Path = state.FOLDER) -> int:
    """End what `up --keep` left running.

    Parameters
    ----------
    folder
        Where all state lies.
    """
    running = state.running(folder)
    if running is None:
        say("nothing is running")
        return 0
    _end(running.pid)
    say("ended")
    return 0


@app.command(show=False)
def serve(folder: Path, /) -> int:
    """The process that holds everything up; started by `up`."""
    try:
        # Only these: they are written to a file that a person sources, and the rest of a shell is its own business.
        variables = {name: value for name, value in os.environ.items() if name.startswith(DECLARED)}
        platform.serve(folder, state.ROOT / "dags", variables)
    except FAILURES as error:
        say(_told(error))
        return 1
    return 0


def _told(error: Exception) -> str:
    """A failure as a person is told it: with what a command said before it ended."""
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    said = f":\n{error.stderr.decode(errors='replace').strip()}" if error.stderr else ""
    return f"`{' '.join(map(str, error.cmd))}` ended with exit code {error.returncode}{said}"


def _variables(checkpoints: Sequence[weights.DemoWeights], nights: state.Nights, declaration: Path) -> dict[str, str]:
    """What the declaration and the settings ask of the environment."""
    found = {
        "FEATURISE_DECLARATION": str(declaration),
        "FEATURISE_EXTRACTOR": str(state.EXTRACTOR),
        "FEATURISE_START_DATE": nights.days[0],
        # The first time, Airflow works off both nights by itself; later there is no night to catch up with.
        "FEATURISE_CATCHUP": str(not nights.done).lower(),
    }
    for checkpoint in checkpoints:
        found[f"{checkpoint.backbone.upper()}_WEIGHTS"] = str(checkpoint.path)
        found[f"{checkpoint.backbone.upper()}_SHA256"] = checkpoint.sha256
    return found


def _serve(folder: Path, variables: dict[str, str]) -> processes.Child:
    argv = [sys.executable, "-m", "featurise_demo", "serve", str(folder)]
    return processes.start("platform", argv, {**os.environ, **variables}, folder / "logs")


def _wait(folder: Path, ours: processes.Child) -> state.Running:
    def up() -> bool:
        ours.must_run()
        return state.running(folder) is not None

    processes.wait_until(up, UP_SECONDS, f"the platform; see {ours.log}")
    found = state.running(folder)
    if found is None:
        raise processes.ProcessDied(f"the platform ended as it came up; see {ours.log}")
    return found


def _both_nights(
    running: state.Running, nights: state.Nights, batches: Sequence[dict[str, bytes]]
) -> list[night.Outcome]:
    os.environ.update(running.environment)
    new = photographs.upload(state.PREFIX, nights.days, batches)
    say(f"{new} new images uploaded below {state.PREFIX}/{{{','.join(nights.days)}}}/")
    airflow = Airflow(Api(running.url, running.user, running.password), running.url, running.user, running.password, ())
    history = night.start(airflow, DAGS, nights.days, again=nights.done)
    with LiveOutcomes() as progress:
        return night.watch(airflow, DAGS, nights.days, history, progress.show)


def _tell(ended: Sequence[night.Outcome], synthetic: Sequence[str]) -> list[night.Outcome]:
    """The table, and where things lie; returns the runs that failed."""
    console.print(outcomes(ended, synthetic))
    if synthetic:
        say(f"Weights are SYNTHETIC for {', '.join(synthetic)}: real networks, meaningless boxes. WEIGHTS_DIR=folder")
        say("takes the published checkpoints.")
    for row in ended:
        for file in row.files:
            say(f"  {file}")
        if row.report:
            say(f"  report of {row.night}, {row.dag_id}: {row.report}")
    if not any(row.featurised or row.rejected for row in ended):
        say("Nothing new: every image of both nights was featurised, or rejected, by an earlier run.")
    failed = [row for row in ended if row.state != "success"]
    for row in failed:
        say(f"FAILED: {row.dag_id}, {row.night}: {', '.join(row.failures)}; see the task's log in Airflow")
    return failed


def _end(pid: int) -> None:
    processes.stop([pid], DOWN_SECONDS)


if __name__ == "__main__":
    sys.exit(app())
