"""The help teaches, and comes at once: nothing heavy is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.errors import EXIT_CODES, ExitCode

COMMANDS = (
    *("predict", "run", "try", "plan", "status", "cancel", "retry", "verify", "vacuum"),
    *("submit", "jobs", "schedule", "top"),
    *("export", "filter", "import", "publish", "diff", "confusion"),
    *("promote", "rollback", "select", "train", "render"),
    *("evaluate", "view", "report", "weights", "schema", "demo", "demo-model"),
)


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "160", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def test_the_first_page_names_every_command_and_exit_code() -> None:
    page = help_of()
    assert all(command in page for command in COMMANDS)
    assert all(f"{code.value}  {meaning[:40]}" in page for code, meaning in EXIT_CODES.items())


def test_every_exit_code_is_explained() -> None:
    assert set(EXIT_CODES) == set(ExitCode)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str) -> None:
    page = help_of(command)
    assert "Example" in page
    assert f"condinst {command}" in page


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['condinst', '--help']\nfrom jobs.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'ray', 'pyarrow', 'boto3', 'yaml', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_checking_a_bad_spec_imports_no_model() -> None:
    code = (
        "import sys\nsys.argv = ['condinst', 'run', '/nowhere.yaml']\nfrom jobs.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code)\n"
        "print([name for name in ('torch', 'ray', 'pyarrow', 'boto3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.splitlines() == ["2", "[]"], done.stdout + done.stderr


@pytest.mark.parametrize("module", ["preview", "status", "segment", "verify", "top", "retry", "cancel"])
def test_who_reads_tables_or_hands_out_work_loads_no_torch(module: str) -> None:
    code = f"import sys, jobs.{module}, pipeline.engine, jobs.run_report.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.splitlines() == ["False"], done.stdout + done.stderr
