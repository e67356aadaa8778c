"""Where the pages are that a report leads to: Airflow's, and the package's own inside it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:  # boto3 and HDF5 come with it, and every Airflow process imports this
    from featurise.steps.report.run_summary import Tried

PAGE = "/featurise/report/{dag_id}/{run_id}"
"""A run's report, below Airflow's address."""


@dataclass(frozen=True)
class Links:
    """The addresses of what a run's report speaks of; all are empty where Airflow's own, `home`, is not known."""

    dag_id: str
    run_id: str
    home: str = ""

    @property
    def path(self) -> str:
        """The report itself, below Airflow's address."""
        return PAGE.format(dag_id=quote(self.dag_id), run_id=quote(self.run_id, safe=""))

    @property
    def page(self) -> str:
        """The report itself."""
        return self._below(self.path)

    @property
    def run(self) -> str:
        """The run."""
        return self._below(f"/dags/{quote(self.dag_id)}/runs/{quote(self.run_id, safe='')}")

    @property
    def night(self) -> str:
        """The run as a timeline."""
        return self._ours("night", dag_id=self.dag_id, run_id=self.run_id)

    def log(self, one: "Tried") -> str:
        """The log of an attempt; empty where the task that made it is not known."""
        if one.map_index is None or not self.run:
            return ""
        return f"{self.run}/tasks/shard.extract/mapped/{one.map_index}?try_number={one.try_number}"

    def image(self, key: str) -> str:
        """An image with its boxes and its outcomes."""
        return self._ours("images", text=key)

    def node(self, name: str) -> str:
        """The attempts on a node."""
        return self._ours("attempts", node=name)

    def _ours(self, page: str, **asked: str) -> str:
        return self._below(f"/featurise/{page}?{urlencode(asked)}")

    def _below(self, path: str) -> str:
        return self.home and self.home + path
