"""`featurise cluster`: what would keep pods from being launched, before one is."""

from collections.abc import Sequence

from featurise.cluster import rights, templates
from featurise.console import say
from featurise.settings import settings


def check_cluster(*, namespace: str, account: Sequence[str] = ()) -> int:
    """Check the pod templates, and that those who launch pods may do so; says which fields or rights are lacking.

    Parameters
    ----------
    namespace
        Of the pods.
    account
        A service account that launches, as `namespace/name`; may be given again. By default the one that asks.
    """
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    found = templates.mistakes(file.stem for file in settings().pod_templates.glob("*.yaml"))
    try:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
        for one in account or [""]:
            if lacking := rights.lacking(client.ApiClient(), namespace, one):
                who = f"the service account {one}" if one else "this account"
                found.append(
                    f"{who} may not: {', '.join(lacking)} in namespace {namespace}; bind it to the launcher role"
                )
    except (client.ApiException, config.ConfigException, HTTPError) as error:
        found.append(f"the cluster does not say who may launch pods: {error}")
    for mistake in found:
        say(mistake, style="red")
    if not found:
        say("pods can be launched: their templates lose no field, and their launchers lack no right")
    return int(bool(found))
