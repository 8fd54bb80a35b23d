"""What the pod of a rendered CronJob does: create the day's RayJob, once, and wait for its end.

`python -m jobs.create_rayjob rayjob.json TIMEZONE`, in a pod with the service account that `render` makes.
The RayJob has the name of the pod's Job, so a pod that begins again finds it. The Job owns it, so it goes
with the Job.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK_SECONDS = 15.0
PATIENCE = 600.0
"""Seconds that Kubernetes may be out of reach before this pod ends; the Job then begins another."""
ENDED = {"Complete": 0, "Failed": 3, "ValidationFailed": 3}
"""How a RayJob ends, and the exit code for it."""
DATE_VARIABLE = "CONDINST_DATE"

Json = dict[str, Any]


class Api:
    """RayJobs of one namespace, by Kubernetes' REST API."""

    def __init__(self, server: str, namespace: str, account: Path) -> None:
        """`server` is `https://host:port`; `account` holds `token` and, for https, `ca.crt`."""
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._account = account
        authority = account / "ca.crt"
        self._tls = ssl.create_default_context(cafile=str(authority)) if server.startswith("https:") else None

    def create(self, rayjob: Json) -> bool:
        """Create a RayJob; False where it is there already. Raises OSError."""
        try:
            self._ask(self._url, rayjob)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
            return False
        return True

    def status(self, name: str) -> str | None:
        """`status.jobDeploymentStatus` of a RayJob; None where it is gone. Raises OSError."""
        try:
            found = self._ask(f"{self._url}/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None
        return str(found.get("status", {}).get("jobDeploymentStatus", ""))

    def _ask(self, url: str, body: Json | None = None) -> Json:
        # Read each time: Kubernetes renews it.
        token = (self._account / "token").read_text().strip()
        request = urllib.request.Request(  # noqa: S310 (the scheme is Kubernetes')
            url,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:  # noqa: S310
            found: Json = json.load(answer)
        return found


def made(template: Json, job: str, uid: str, zone: str, now: datetime | None = None) -> Json:
    """The RayJob of a CronJob's Job: its name, its owner, and the day that it is for."""
    rayjob: Json = json.loads(json.dumps(template))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
    rayjob["metadata"] |= {"name": job[:47].rstrip("-"), "ownerReferences": [owner]}
    day = {"name": DATE_VARIABLE, "value": scheduled(job, now).astimezone(ZoneInfo(zone)).date().isoformat()}
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["env"].append(day)
    return rayjob


def scheduled(job: str, now: datetime | None = None) -> datetime:
    """When a CronJob's Job was to start: its name ends with the minutes since 1970. Else now."""
    found = re.search(r"-([0-9]{8,9})$", job)
    return datetime.fromtimestamp(int(found[1]) * 60, UTC) if found else now or datetime.now(UTC)


def wait(api: Api, name: str, look: float = LOOK_SECONDS, patience: float = PATIENCE) -> int:
    """Wait for a RayJob's end; returns an exit code. Raises OSError when Kubernetes stays out of reach."""
    said, heard = "", time.monotonic()
    while True:
        try:
            status = api.status(name)
        except (OSError, ValueError):
            if time.monotonic() - heard > patience:
                raise
            status = said
        else:
            heard = time.monotonic()
        if status is None:
            print(f"{name} was deleted", flush=True)
            return ENDED["Failed"]
        if status != said:
            print(f"{name}: {status or 'created'}", flush=True)
            said = status
        if status in ENDED:
            return ENDED[status]
        time.sleep(look)


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Create the RayJob and wait; returns the exit code."""
    path, zone = arguments
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    api = Api(f"https://{host}:{port}", environment["NAMESPACE"], ACCOUNT)
    rayjob = made(json.loads(Path(path).read_text()), environment["JOB_NAME"], environment["JOB_UID"], zone)
    name = str(rayjob["metadata"]["name"])
    print(f"{name}: {'created' if api.create(rayjob) else 'there already, waiting on'}", flush=True)
    return wait(api, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
