"""Who may see and do what: Airflow's own authentication and permissions, whichever auth manager is installed.

To see the pages, a person needs to be allowed to read task instances, and sees the datasets whose DAGs they may read.
To hold back or release a node, they need to be allowed to edit pools: either decides what GPU tasks may use.
"""

from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request

MAY_READ = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.TASK_INSTANCE))


def visible_dags(user: GetUserDep) -> frozenset[str]:
    """The DAGs that the asking person may read."""
    return frozenset(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))


def may_operate(user: GetUserDep) -> bool:
    """Whether the asking person may hold back and release nodes."""
    return get_auth_manager().is_authorized_pool(method="PUT", user=user)


def operator(request: Request, user: GetUserDep) -> str:
    """The name of an operator who asks from a page of this server.

    Raises HTTPException for anybody else, and for a form on a page of another site: the browser sends the cookie along.
    """
    if not may_operate(user):
        raise HTTPException(403, "to hold back or release nodes, you need the permission to edit pools")
    sent_from = request.headers.get("origin")
    if sent_from is not None and urlsplit(sent_from).netloc != request.headers.get("host"):
        raise HTTPException(403, "this was sent from a page of another site")
    return user.get_name()


VisibleDags = Annotated[frozenset[str], Depends(visible_dags)]
MayOperate = Annotated[bool, Depends(may_operate)]
Operator = Annotated[str, Depends(operator)]
