"""A driver that runs a job on a Ray of its own and then prints all that Ray's metadata store holds."""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray.experimental import internal_kv

from jobs.check import load
from jobs.errors import explain
from jobs.segment import run_job
from tests.integration.local_ray import start_ray


def main() -> int:
    """Run the spec; the metadata goes to stdout."""
    start_ray(2)
    try:
        run_job(load(Path(sys.argv[1])))
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        print(told[1])
        return told[0].value
    finally:
        sys.stdout.flush()
        for namespace in (None, "fun", "job", "session", "cluster", "dashboard", "runtime_env", "serve"):
            for key in internal_kv._internal_kv_list("", namespace=namespace):
                value = internal_kv._internal_kv_get(key, namespace=namespace)
                sys.stdout.buffer.write(b"KV " + bytes(key) + b" = " + bytes(value or b"") + b"\n")
        sys.stdout.buffer.write(b"ENV " + str(ray.get_runtime_context().runtime_env).encode() + b"\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
