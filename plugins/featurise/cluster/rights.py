"""What launchers have to be allowed on the cluster (the chart's role grants it), and what of it they are not."""

from collections.abc import Callable
from typing import Any

NEEDED = (
    ("pods", "", "create get list watch patch delete"),
    ("pods", "log", "get list"),
    ("events", "", "get list watch"),
)
"""Resource, its part, verbs; in the namespace of the pods."""
API_SECONDS = 20


def lacking(api: Any, namespace: str, account: str = "") -> list[str]:
    """Verbs and resources that an account lacks, as in `list pods`; nothing when it may do all.

    Args:
        api: a client of the cluster (kubernetes.client.ApiClient).
        namespace: of the pods.
        account: `namespace/name` of the service account; by default the one that asks.

    Raises kubernetes.client.ApiException.
    """
    ask = _of_account(api, namespace, account) if account else _own(api)
    found = []
    for resource, part, verbs in NEEDED:
        for verb in verbs.split():
            if not ask({"verb": verb, "resource": resource, "subresource": part, "namespace": namespace}):
                found.append(f"{verb} {resource}{part and '/'}{part}")
    return found


def _own(api: Any) -> Callable[[dict[str, str]], bool]:
    from kubernetes import client

    reviews = client.AuthorizationV1Api(api)

    def ask(wanted: dict[str, str]) -> bool:
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(**wanted))
        review = client.V1SelfSubjectAccessReview(spec=spec)
        answer = reviews.create_self_subject_access_review(review, _request_timeout=API_SECONDS)
        return bool(answer.status.allowed)

    return ask


def _of_account(api: Any, namespace: str, account: str) -> Callable[[dict[str, str]], bool]:
    from kubernetes import client

    reviews = client.AuthorizationV1Api(api)
    home, _, name = account.rpartition("/")
    home = home or namespace
    everyone = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]

    def ask(wanted: dict[str, str]) -> bool:
        attributes = client.V1ResourceAttributes(**wanted)
        spec = client.V1SubjectAccessReviewSpec(
            resource_attributes=attributes, user=f"system:serviceaccount:{home}:{name}", groups=everyone
        )
        meta = client.V1ObjectMeta(namespace=namespace)
        review = client.V1LocalSubjectAccessReview(metadata=meta, spec=spec)
        answer = reviews.create_namespaced_local_subject_access_review(namespace, review, _request_timeout=API_SECONDS)
        return bool(answer.status.allowed)

    return ask
