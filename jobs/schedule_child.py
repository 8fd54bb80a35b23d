"""A scheduled run as a process of its own: `python -m jobs.schedule_child STATE NAME FIRE ATTEMPT LOCK`.

Started by `jobs.schedule_runners.LocalRunner`, whose lock it holds until it is gone. It runs the spec as the
scheduler last took it over: its file may have been changed since, to one that does not hold.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from jobs.check import load_job
from jobs.errors import ExitCode, SpecError
from jobs.schedule_state import Run, ScheduleState, run_file
from jobs.submit import COMMANDS


def main() -> None:
    """Run the spec of a schedule and note its exit code."""
    state_file, name, fire, attempt, lock = sys.argv[1:]
    # What the run itself starts must not keep the lock when it is gone.
    os.set_inheritable(int(lock), False)
    state = ScheduleState(Path(state_file))
    run, text = Run(name, datetime.fromisoformat(fire), "running", int(attempt)), state.spec(name)
    if text is None:
        sys.exit(ExitCode.BUG)
    code = _run(text, run_file(state.path, run, ".yaml"))
    state.report(run, code)
    sys.exit(code)


def _run(text: str, spec: Path) -> int:
    """Exit code of `condinst run SPEC`, or `train`, run in this process; the text is put into that file."""
    from jobs.cli import main as condinst

    try:
        spec.write_text(text)
        sys.argv = ["condinst", COMMANDS[load_job(spec).kind], str(spec)]
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
