"""`featurise check`: the declaration, and what the first night of each of its feature sets would do."""

import datetime
import warnings
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from extractor.core.exit_codes import ExtractorError
from featurise.console import AsJson, errors, say, say_json, warn
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.former_names import FormerName
from featurise.declaration.load import Broken
from featurise.errors import FeaturiseError
from featurise.settings import settings
from featurise.steps import first_night
from featurise.steps.first_night import FirstNight


def check(
    path: Path | None = None, /, *, offline: Annotated[bool, Parameter(negative="")] = False, as_json: AsJson = False
) -> int:
    """Check the declaration, and say what the first night of each dataset and backbone would do.

    The night is run dry, as by the trigger form; nothing of it is left. It needs the registry and the bucket.

    Parameters
    ----------
    path
        The declaration; by default the one that FEATURISE_DECLARATION names.
    offline
        Read the declaration, and nothing else.
    as_json
        JSON lines: `dag_id` and `feature_set` with `first_night` or what is in its way as `obstacle`, or `mistake`.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FormerName)
        found = declaration.load(path or settings().declaration)
    for message in dict.fromkeys(str(one.message) for one in told if issubclass(one.category, FormerName)):
        warn(message, style="yellow")
    sound = [_told(one, offline=offline, as_json=as_json) for one in found]
    return int(not all(sound))


def _told(one: FeatureSetSpec | Broken, *, offline: bool, as_json: bool) -> bool:
    """Tell of one feature set; whether nothing is wrong with it."""
    if isinstance(one, Broken):
        if as_json:
            say_json({"mistake": one.message})
        else:
            say(one.message, style="red")
        return False
    named = {"dag_id": one.dag_id, "feature_set": one.feature_set}
    night = None if offline else _looked_at(one)
    if as_json:
        say_json(named | _facts(night))
    else:
        say(f"{one.dag_id}: feature set {one.feature_set}")
        _say(night)
    return night is None or (isinstance(night, FirstNight) and night.weights_found is not False)


def _looked_at(spec: FeatureSetSpec) -> FirstNight | str:
    """The first night, or what is in its way."""
    try:
        with errors.status(f"{spec.dag_id}: a dry run of its first night"):
            return first_night.look(spec, datetime.datetime.now(datetime.UTC))
    except (FeaturiseError, ExtractorError) as error:
        return str(error)


def _facts(night: FirstNight | str | None) -> dict[str, Any]:
    if isinstance(night, FirstNight):
        return {"first_night": night.model_dump()}
    return {} if night is None else {"obstacle": night}


def _say(night: FirstNight | str | None) -> None:
    if night is None:
        return
    if isinstance(night, str):
        say(f"  in the way of its first night: {night}", style="red")
        return
    shards = "1 shard" if night.shards == 1 else f"{night.shards:,} shards"
    does = night.left or f"{night.found:,} images, {night.new:,} of them new, in {shards}"
    say(f"  first night: {night.day}, {night.images}: {does}")
    say(f"  results: {night.results}")
    if night.weights_found is False:
        say(f"  weights: {night.weights}: not found; put the checkpoint there, or correct weights.uri", style="red")
    else:
        say(f"  weights: {night.weights}: {'found' if night.weights_found else 'looked for by the pods'}")
