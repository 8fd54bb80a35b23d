"""`condinst view`: one run, or two side by side, in the browser. `condinst report`: its page again."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError
from jobs.target import open_run, put_file
from jobs.viewer.guard import loopback
from jobs.viewer.server import free_socket, make_app, serve
from jobs.viewer.view import View
from pipeline.storage import StoreOptions


def view_outputs(
    targets: Sequence[str], options: StoreOptions, host: str, port: int, console: Console | None = None
) -> None:
    """Serve the viewer until it is interrupted; prints its address.

    Raises JobError where no job ever ran or the port is taken, StoreError when a store cannot be reached.
    """
    console = console or Console()
    views = [View(open_run(target, options)) for target in targets]
    token = None if loopback(host) else secrets.token_urlsafe(24)
    try:
        listening = free_socket(host, port)
    except OSError as error:
        raise JobError(f"{host}:{port}: {error.strerror or error}; give another --host or --port") from None
    shown = ", ".join(view.run.store.uri for view in views)
    console.print(f"showing {escape(shown)}; ctrl-c ends it", highlight=False, soft_wrap=True)
    console.print(_address(listening, host, token), highlight=False, markup=False, soft_wrap=True)
    serve(make_app(views, token), listening)


def _address(listening: socket.socket, host: str, token: str | None) -> str:
    """What to open; where any of this machine's addresses will do, its name."""
    port = listening.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def write_report(
    target: str, options: StoreOptions, to: str | None = None, console: Console | None = None
) -> None:
    """Write a run's report into its output, or to a path or URI; prints where.

    Raises JobError where no job ever ran, StoreError when the store cannot be reached or written.
    """
    from jobs.run_report.page import REPORT_KEY, render  # loads what draws, which the viewer's start does not

    run = open_run(target, options)
    page = render(run).encode()
    if to is None:
        run.store.put(REPORT_KEY, page)
    else:
        put_file(to, page, options)
    place = run.store.join(REPORT_KEY) if to is None else to
    (console or Console()).print(escape(place), highlight=False, soft_wrap=True)
