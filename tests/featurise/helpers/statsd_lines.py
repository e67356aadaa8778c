"""StatsD's lines with labels in InfluxDB's way, as Airflow's client sends them: `name,label=value:1|c`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line: `sign` is `c`, `g` or `ms`."""

    name: str
    labels: dict[str, str]
    value: float
    sign: str


def parsed(datagram: str) -> list[Line]:
    """The lines of a datagram."""
    found = []
    for line in datagram.splitlines():
        head, _, tail = line.rpartition(":")
        value, sign = tail.split("|")[:2]
        name, *labels = head.split(",")
        found.append(Line(name, dict(label.split("=") for label in labels), float(value), sign))
    return found
