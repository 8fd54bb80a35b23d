"""The installed `condinst` as a user runs it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = Path(sys.executable).with_name("condinst")


def condinst(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 580
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; what it prints is 200 columns wide."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        cwd=cwd,
    )
