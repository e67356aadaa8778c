"""`make chart-check CHART=airflow-1.22.0.tgz`: the umbrella chart with Airflow's own, before it meets a cluster."""

import argparse
import sys
from pathlib import Path

import yaml

from charts import CHART
from check import problems, wrong_archive


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chart-check", description=__doc__)
    parser.add_argument("archive", type=Path, help="of Airflow's chart, in the version that Chart.yaml pins")
    parser.add_argument("values", type=Path, nargs="*", help="values files of yours, to be checked as well")
    given = parser.parse_args()
    if not given.archive.is_file():
        print(
            f"{given.archive}: there is no such file; `helm pull airflow --repo https://airflow.apache.org` brings it"
        )
        return 2
    if wrong := wrong_archive(given.archive):
        print(wrong)
        return 2
    failed = False
    for file in [CHART / "values.yaml", *sorted(CHART.glob("values-*.yaml")), *given.values]:
        found = problems(given.archive, yaml.safe_load(file.read_text()) or {})
        failed |= bool(found)
        print(f"{file.name}: {'well' if not found else f'{len(found)} problems'}", *found, sep="\n  ")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
