"""`featurise alerts`: what people were told, and whether alerts arrive."""

from importlib.metadata import entry_points

from cyclopts import App

from featurise.console import AsJson, say, say_json, table, warn
from featurise.console import moment as at
from featurise.declaration import load as declaration
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.monitoring.conditions import merged
from featurise.registry import alerts as registry
from featurise.registry.session import reading
from featurise.settings import settings

alerts = App(name="alerts", help="What people were told, and where alerts go.")


@alerts.default
def show_alerts(*, as_json: AsJson = False) -> None:
    """Alerts, those that are open first: what happened, what waits, what a person should do.

    Parameters
    ----------
    as_json
        JSON lines instead of a table.
    """
    with reading() as connection:
        found, _ = registry.page(connection)
        failed = registry.undelivered(connection)
    if as_json:
        for one in found:
            moments = {"opened_at": one.opened_at, "closed_at": one.closed_at, "closed_because": one.closed_because}
            say_json({**one.facts, "id": one.id, **moments})
        return
    rows = [
        (at(one.opened_at), one.facts["title"], str(one.facts["waiting"]), one.closed_because or one.facts["todo"])
        for one in found
    ]
    table("nothing has needed a person yet", ("since (UTC)", "what", "images waiting", "over, or what to do"), rows)
    for _, channel, why in failed:
        warn(f"{channel}: {why}", style="red")


@alerts.command(name="test")
def send_test(*, dataset: str | None = None) -> int:
    """Send a test alert to every place that the declaration names.

    Parameters
    ----------
    dataset
        Only where this dataset's alerts go.
    """
    declared = [one for one in declaration.load(settings().declaration) if isinstance(one, FeatureSetSpec)]
    channels = merged(one.alerts.channels for one in declared if dataset in (None, one.dataset))
    if not channels:
        warn("no place is declared: name `email`, `webhook` or `slack` below a dataset's `alerts`", style="red")
        return 1
    (sender,) = entry_points(group="featurise.senders")
    failures: list[str] = sender.load()(channels)
    for why in failures:
        warn(why, style="red")
    say(f"{len(channels) - len(failures)} of {len(channels)} places were told: {', '.join(channels)}")
    return int(bool(failures))
