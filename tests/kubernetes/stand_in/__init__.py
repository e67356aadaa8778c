"""A local HTTP stand-in of the Kubernetes pod API: containers are processes of this machine, and it can misbehave.

It speaks what the operator, its trigger and both clients need of it: pods (create, get, list, watch, patch, delete,
log), events (list, watch), and enough of namespaces, secrets and roles to furnish one. What it adds is a switchboard
for tests: faults that strike a pod, outages of the API.
"""

from stand_in.faults import Fault, Faults
from stand_in.running import NAMESPACE, StandIn, run

__all__ = ["NAMESPACE", "Fault", "Faults", "StandIn", "run"]
