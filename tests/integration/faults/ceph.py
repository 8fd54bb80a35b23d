"""Ceph's RADOS gateway on loopback, from Debian's packages: the S3 service the faults happen in front of.

One monitor, one manager, one OSD that keeps its objects in memory, one gateway; each a child of this process,
on free ports, with everything they write in one folder that goes with them.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    "ceph",
    "ceph-authtool",
    "ceph-mgr",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
)
PATIENCE = 180.0
"""Seconds each daemon gets to answer, on a machine that does other things too."""

TRIES = 2

_CONF = """
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
osd memory target = 939524096
memstore device bytes = 2147483648
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
keyring = {folder}/keyring
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
"""


@dataclass(frozen=True)
class Service:
    """An S3 service as its clients know it."""

    name: str
    endpoint: str
    key: str
    secret: str

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What leads every S3 client there, or to a proxy in front of it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def missing() -> str | None:
    """Why no Ceph can be started here; None when it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"Ceph is not installed ({', '.join(absent)}): run `make ceph` as root" if absent else None


@contextmanager
def ceph() -> Iterator[Service]:
    """A gateway with one user; it and what it holds are gone afterwards. Takes some 15 s to start."""
    with ExitStack() as stack:
        yield _started(stack)


def _started(stack: ExitStack) -> Service:
    """Start one, again at other ports where one of its own was taken in between."""
    for left in reversed(range(TRIES)):
        with ExitStack() as own:
            folder = Path(tempfile.mkdtemp(prefix="ceph-", dir="/tmp"))
            own.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                service = _Cluster(folder, own).start()
            except (RuntimeError, subprocess.SubprocessError):
                if not left:
                    raise
            else:
                stack.push(own.pop_all())
                return service
    raise AssertionError("unreachable")


class _Cluster:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._ports = _free_ports(3)

    def start(self) -> Service:
        for name in ("mon", "mgr", "osd", "run", "log"):
            (self._folder / name).mkdir()
        self._monitor()
        self._keyring(
            self._ceph("auth", "get-or-create", "mgr.x", "mon", "allow profile mgr", "osd", "allow *")
        )
        self._daemon("ceph-mgr", "-i", "x")
        self._osd()
        rights = ("mon", "allow rwx", "osd", "allow rwx", "mgr", "allow rw")
        self._keyring(self._ceph("auth", "get-or-create", "client.rgw", *rights))
        gateway = self._daemon("radosgw", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{self._ports[2]}"
        _until(lambda: _answers(endpoint), f"the gateway, see {self._folder}/log", gateway)
        service = Service("Ceph RGW", endpoint, "cephkey", "ceph-secret-value")
        who = (
            "--uid=test",
            "--display-name=test",
            f"--access-key={service.key}",
            f"--secret-key={service.secret}",
        )
        self._run("radosgw-admin", *self._conf, "user", "create", *who)
        return service

    @property
    def _conf(self) -> tuple[str, str]:
        return "--conf", str(self._folder / "ceph.conf")

    def _monitor(self) -> None:
        fsid = str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{self._ports[0]},v1:127.0.0.1:{self._ports[1]}]"
        text = _CONF.format(fsid=fsid, monitor=monitor, folder=self._folder, port=self._ports[2])
        (self._folder / "ceph.conf").write_text(text)
        keyring, map_file = str(self._folder / "keyring"), str(self._folder / "monmap")
        caps = [word for part in ("mon", "osd", "mgr") for word in ("--cap", part, "allow *")]
        self._run(
            "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"
        )
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        self._run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, map_file)
        self._run("ceph-mon", *self._conf, "--mkfs", "-i", "a", "--monmap", map_file, "--keyring", keyring)
        process = self._daemon("ceph-mon", "-i", "a")
        _until(lambda: self._asked("mon", "stat") is not None, "the monitor", process)

    def _osd(self) -> None:
        uid = str(uuid.uuid4())
        number = self._ceph("osd", "new", uid).strip()
        rights = ("mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *")
        self._keyring(self._ceph("auth", "get-or-create", f"osd.{number}", *rights))
        self._run("ceph-osd", *self._conf, "-i", number, "--mkfs", "--osd-uuid", uid)
        process = self._daemon("ceph-osd", "-i", number)
        _until(
            lambda: json.loads(self._asked("osd", "stat") or "{}").get("num_up_osds") == 1, "the OSD", process
        )

    def _daemon(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon that ends with this block, and with this process should it be killed."""
        # A kernel's signal and not an exit hook: the one is there after SIGKILL, the other is not.
        command = ["setpriv", "--pdeathsig", "KILL", program, *self._conf, *arguments, "-f"]
        log = self._stack.enter_context((self._folder / "log" / f"{program}.out").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)  # there is nothing to save: its objects are in its memory
        return process

    def _asked(self, *question: str) -> str | None:
        try:
            return self._ceph(*question, seconds=10)
        except subprocess.SubprocessError:
            return None

    def _ceph(self, *words: str, seconds: float = PATIENCE) -> str:
        return self._run(
            "ceph", *self._conf, *words, *(("-f", "json") if words[1] == "stat" else ()), seconds=seconds
        )

    def _run(self, *command: str, seconds: float = PATIENCE) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds).stdout

    def _keyring(self, text: str) -> None:
        with (self._folder / "keyring").open("a") as file:
            file.write(text)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _until(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"{what}: ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up in {PATIENCE:g} s")
        time.sleep(0.3)
