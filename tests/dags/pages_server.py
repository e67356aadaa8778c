"""The package's pages on a port of their own: Airflow's database, authentication and permissions, and no other process.

`python pages_server.py PORT RUN` prints a token for each role, and then serves; each DAG has had that one run.
"""

import json
import sys
from datetime import UTC, datetime, timedelta

import uvicorn
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.types import DagRunType
from fastapi import FastAPI

from featurise.airflow.web.app import app as ours

DAGS = ("birds__resnet101", "birds__resnext101")
ROLES = ("viewer", "user", "op", "admin")


def main() -> None:
    initdb()
    began = datetime.now(UTC) - timedelta(hours=2)
    with create_session() as session:
        session.add(DagBundleModel(name="tests"))
        session.flush()
        for dag_id in DAGS:
            session.add(DagModel(dag_id=dag_id, bundle_name="tests", fileloc=__file__))
            session.flush()
            run = DagRun(
                dag_id=dag_id, run_id=sys.argv[2], run_type=DagRunType.MANUAL, run_after=began, start_date=began
            )
            run.state = "failed"
            session.add(run)
    app = FastAPI()
    init_auth_manager(app)
    app.mount("/featurise", ours)
    manager = get_auth_manager()
    tokens = {role: manager.generate_jwt(SimpleAuthManagerUser(username=f"{role}-1", role=role)) for role in ROLES}
    print(json.dumps(tokens), flush=True)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
