"""A scheduled run as a process of its own: `python -m jobs.schedule_child STATE NAME FIRE ATTEMPT LOCK`.

Started by `jobs.schedule_runners.LocalRunner`, whose lock it holds until it is gone.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from jobs.check import load_job
from jobs.errors import ExitCode, SpecError
from jobs.schedule_state import Run, ScheduleState
from jobs.submit import COMMANDS


def main() -> None:
    """Run the spec of a schedule and note its exit code."""
    state_file, name, fire, attempt, lock = sys.argv[1:]
    # What the run itself starts must not keep the lock when it is gone.
    os.set_inheritable(int(lock), False)
    state = ScheduleState(Path(state_file))
    run, schedule = Run(name, datetime.fromisoformat(fire), "running", int(attempt)), state.schedule(name)
    if schedule is None:
        sys.exit(ExitCode.BUG)
    code = _run(schedule.path)
    state.report(run, code)
    sys.exit(code)


def _run(spec: str) -> int:
    """Exit code of `condinst run SPEC`, or `train`, run in this process."""
    from jobs.cli import main as condinst

    try:
        sys.argv = ["condinst", COMMANDS[load_job(Path(spec)).kind], spec]
        condinst()
    except SpecError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_SPEC
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return ExitCode.BUG
    return ExitCode.DONE


if __name__ == "__main__":
    main()
