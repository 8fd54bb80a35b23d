"""The command works as a pod runs it: nobody's user, no rights, every file system read-only but /tmp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tiny import pictures, tiny_weights

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CONFINE = """
set -e
mount --make-rprivate /
mount --bind "$PYTHON" /mnt
mount -t tmpfs -o size=1g,mode=1777 tmpfs /tmp
mount -t tmpfs -o size=512m,mode=1777 tmpfs /dev/shm
for place in $(awk '$2 != "/tmp" && $2 !~ "^/(proc|sys|dev)" {print $2}' /proc/self/mounts | sort -u); do
  mount -o remount,bind,ro "$place" 2>/dev/null || true
done
if touch /mnt/x /var/x /etc/x 2>/dev/null; then echo "not read-only" >&2; exit 99; fi
cd /tmp
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --no-new-privs "$@"
"""


def confined(arguments: list[str], modules: str) -> subprocess.CompletedProcess[str]:
    """Run Python so; its own folder stands at /mnt, since a user's may be closed to others."""
    environment = {
        "PYTHON": sys.base_prefix,
        "PYTHONPATH": modules,
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": "/mnt/lib",
        "PATH": f"/mnt/bin:{os.defpath}",
        "HOME": "/tmp",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    python = f"/mnt/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", CONFINE, "confine", python, *arguments],
        capture_output=True, text=True, env=environment, timeout=580, check=False,
    )  # fmt: skip


@pytest.fixture
def modules() -> str:
    """Where a user without rights finds the project and what it stands on."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("needs root, unshare and setpriv, to take rights away")
    found = f"{ROOT}:{sysconfig.get_path('purelib')}"
    tried = confined(["-c", "import ssl, torch, ray, jobs"], found)
    if tried.returncode:
        pytest.skip(f"cannot run Python confined here: {tried.stderr[-200:]}")
    return found


def test_a_job_on_ray_needs_no_more_than_tmp(modules: str) -> None:
    # In the checkout, because the confined process has a /tmp of its own.
    place = ROOT / "work" / "read-only-test"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        weights = tiny_weights(place)
        weights.chmod(0o644)
        pictures(place / "in", 6)
        spec = place / "job.yaml"
        spec.write_text(
            f"kind: segment\nname: confined\ninput: {{uri: {place / 'in'}}}\noutput: {{uri: /tmp/out}}\n"
            f"model: {{weights: {weights}}}\nshards: {{images: 2}}\n"
        )
        script = (
            "import os, sys; assert os.getuid() == 1000; from jobs.cli import main; "
            f"sys.argv = ['condinst', 'run', {str(spec)!r}]; main()"
        )
        done = confined(["-c", script], modules)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "8 images" in done.stdout
