"""A scheduled run as a process of its own: `python -m jobs.schedule_child STATE NAME FIRE ATTEMPT LOCK`.

Started by `jobs.schedule_runners.LocalRunner`, whose lock it holds until it is gone.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from jobs.errors import ExitCode
from jobs.schedule_state import Run, ScheduleState
from jobs.submit import COMMANDS, kind_of


def main() -> None:
    """Run the spec of a schedule and note its exit code."""
    state_file, name, fire, attempt, lock = sys.argv[1:]
    # What the run itself starts must not keep the lock when it is gone.
    os.set_inheritable(int(lock), False)
    state = ScheduleState(Path(state_file))
    run, schedule = Run(name, datetime.fromisoformat(fire), "running", int(attempt)), state.schedule(name)
    if schedule is None:
        sys.exit(ExitCode.BUG)
    state.started(run, os.readlink("/proc/self/fd/1") if os.path.exists("/proc/self/fd/1") else "")
    code = _run(COMMANDS.get(kind_of(Path(schedule.path)) or "", "run"), schedule.path)
    state.report(run, code)
    sys.exit(code)


def _run(command: str, spec: str) -> int:
    """Exit code of `condinst COMMAND SPEC`, run in this process."""
    from jobs.cli import main as condinst

    sys.argv = ["condinst", command, spec]
    try:
        condinst()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return ExitCode.BUG
    return ExitCode.DONE


if __name__ == "__main__":
    main()
