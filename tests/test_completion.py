"""Completion in the three shells that invoke has scripts for; each test needs its shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASK = {
    "bash": """
source <("$RUNTIME_BUILD" --print-completion-script=bash)
complete_line() { COMP_WORDS=("$@"); _complete_runtime-build runtime-build "${!#}"; echo "${COMPREPLY[@]}"; }
complete_line runtime-build con
complete_line runtime-build context --ma
complete -p runtime-build
""",
    "zsh": """
source <("$RUNTIME_BUILD" --print-completion-script=zsh)
complete_line() { words=("$@"); _complete_runtime-build; print -r -- ${(M)reply:#${@[-1]}*} }
complete_line runtime-build con
complete_line runtime-build context --ma
compctl | grep runtime-build
""",
    "fish": """
$RUNTIME_BUILD --print-completion-script=fish | source
complete -C "runtime-build con"
complete -C "runtime-build context --ma"
complete | grep runtime-build
""",
}


@pytest.mark.parametrize("shell", ASK)
def test_tasks_and_flags_are_completed(tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    command = Path(sys.executable).with_name("runtime-build")
    environment = {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RUNTIME_BUILD": str(command),
    }
    flag = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    done = subprocess.run(
        [program, flag, "-c", ASK[shell]], env=environment, capture_output=True, text=True, check=False
    )
    words = done.stdout.split()
    assert {"context", "--map", "--max-context-bytes"} <= set(words)
    assert not {"clean", "--files"} & set(words)
    assert "(__complete_runtime-build)" in done.stdout if shell == "fish" else "_complete_runtime-build" in words
