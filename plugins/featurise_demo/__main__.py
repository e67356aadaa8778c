"""`python -m featurise_demo up|down`: the whole platform on this machine, two nights, both backbones."""

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from extractor.core.backbone_specs import specs
from extractor.core.exit_codes import ExtractorError
from featurise.errors import FeaturiseError
from featurise.settings import PREFIX
from featurise_demo import declared, night, photographs, platform, processes, reports, state, weights
from featurise_demo.airflow import Airflow
from featurise_demo.api import Api, ApiError
from featurise_demo.show import LiveOutcomes, console, outcomes, say, working

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


class Told(Exception):
    """Raised once a person has been told why the demo ends; what was started is ended after that."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Say why the demo ends, and what to do, before anything is ended."""
    try:
        yield
    except KeyboardInterrupt:
        say("Interrupted. What was started is ended now; Airflow may take a minute over it.")
        raise Told(130) from None
    except state.Busy as error:
        say(str(error))
        raise Told(1) from error
    except FAILURES as error:
        say(f"{_told(error)}\nLogs, if it came so far: {folder}/logs, {folder}/airflow/processes")
        say("When the cause is gone, `make demo` takes up where this one stopped.")
        raise Told(1) from error


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
        with ExitStack() as stack, _telling(folder):
            return _up(stack, images, given, folder, keep=keep)
    except Told as told:
        return told.code
    except KeyboardInterrupt:
        say("Interrupted again: Airflow continues to end by itself.")
        return 130


def _up(stack: ExitStack, images: Path | None, given: Path | None, folder: Path, *, keep: bool) -> int:
    started = time.monotonic()
    with working("2 of 5: images and weights"):
        weights.must_be_folder()
        declared.check(given)
        batches = photographs.batches(images, state.EXTRACTOR.with_name("python"))
        stack.enter_context(state.held(folder))
        weights.download(state.CACHE / "weights", state.EXTRACTOR, say)
        checkpoints = weights.provide(state.CACHE / "weights", state.EXTRACTOR, say)
    nights = state.nights(folder, datetime.datetime.now(datetime.UTC))
    nights.save(folder)
    running, kept = state.running(folder), True
    if running is None:
        variables = _variables(checkpoints, nights, declared.declaration(folder, given))
        running, kept = _start(stack, folder, variables), False
    elif given is not None:
        raise FeaturiseError("a demo is up, and its declaration cannot be exchanged; `make demo-down` ends it")
    else:
        say("3 of 5: Airflow runs already")
    say(f"Airflow: {running.url} (user {running.user}, password {running.password})")
    if images:
        say(f"{images} in two nights: {photographs.split(nights.days, batches)}")
    with working("4 of 5: two nights, both detectors (about four minutes on two cores)"):
        ended = _both_nights(running, nights, batches, again=given is not None)
    with working("5 of 5: reports"):
        index = reports.write(folder / "reports", ended)
    synthetic = [checkpoint.backbone for checkpoint in checkpoints if checkpoint.synthetic]
    failed = _tell(ended, synthetic)
    if not failed:
        state.Nights(nights.days, done=True).save(folder)
    say(f"{time.monotonic() - started:.0f} s in all")
    if keep or kept:
        stack.pop_all()
        say(f"Left running: user {running.user}, password {running.password}; `make demo-down` ends it")
        say(f"`. {os.path.relpath(folder)}/env` sets the variables to look by hand")
        say(f"The reports: {reports.in_airflow(running.url, ended)}")
    else:
        say(f"The reports: {index.as_uri()}")
    return 1 if failed else 0


def _start(stack: ExitStack, folder: Path, variables: dict[str, str]) -> state.Running:
    """Start the platform, which is ended with `stack`; before it, end what is left of one that was killed."""
    if state.left_over(folder):
        with working("ending what an earlier demo has left running"):
            _end_left_over(folder)
    with working("3 of 5: starting Airflow (about a minute)"):
        ours = _serve(folder, variables)
        stack.callback(_end, ours.process.pid)
        return _wait(folder, ours)


def _end(pid: int) -> None:
    with working("ending every process"):
        processes.stop([pid], DOWN_SECONDS)


def _end_left_over(folder: Path) -> None:
    """End them one by one, the platform first: it ends the others in order."""
    while left := state.left_over(folder):
        processes.stop(left[:1], DOWN_SECONDS)


@app.command
def down(*, folder: Path = state.FOLDER) -> int:
    """End what `up --keep`, or a demo that was killed, left running.

    Parameters
    ----------
    folder
        Where all state lies.
    """
    folder = folder.absolute()
    if not state.left_over(folder):
        say("nothing is running")
        return 0
    with working("ending every process"):
        _end_left_over(folder)
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
    """A failure in words: with what a command said before it ended."""
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
    running: state.Running, nights: state.Nights, batches: Sequence[dict[str, bytes]], *, again: bool
) -> list[night.NightResult]:
    os.environ.update(running.environment)
    new = photographs.upload(state.PREFIX, nights.days, batches)
    say(f"{sum(new.values())} new images uploaded below {state.PREFIX}/{{{','.join(nights.days)}}}/")
    airflow = Airflow(Api(running.url, running.user, running.password), running.url, running.user, running.password, ())
    # What was featurised without given boxes, or with others, does not count.
    fresh = {name for name, count in new.items() if count or again}
    awaited = night.start(airflow, DAGS, nights.days, scheduled=not nights.done, fresh=fresh)
    with LiveOutcomes() as progress:
        return night.watch(airflow, awaited, progress.show)


def _tell(ended: Sequence[night.NightResult], synthetic: Sequence[str]) -> list[night.NightResult]:
    """The table, and where things lie; returns the runs that failed."""
    console.print(outcomes(ended, synthetic))
    if synthetic:
        say(f"Weights are SYNTHETIC for {', '.join(synthetic)}: real networks, meaningless boxes. WEIGHTS_DIR=folder")
        say("takes the published checkpoints.")
    for row in ended:
        for file in row.files:
            say(f"  {file}")
    if not any(row.featurised or row.rejected for row in ended):
        say("Nothing new: every image of both nights was featurised, or rejected, by an earlier run.")
    failed = [row for row in ended if row.state != "success"]
    for row in failed:
        say(f"FAILED: {row.dag_id}, {row.night}")
        for failure in row.failures:
            say(f"  {failure}")
    if failed:
        say("`make demo` does what failed once more; `make demo KEEP=1` leaves Airflow running, to look at the tasks")
    return failed


if __name__ == "__main__":
    sys.exit(app())
