"""Copy the running Python to a folder that works on any image whose C library is at least as new.

usage: copy_python.py FOLDER PATCHELF
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# The C library and its loader must be those of the image that runs the copy; every other library is copied.
C_LIBRARY = re.compile(r"(ld-|ld64|libc\.|libm\.|libdl\.|librt\.|libpthread\.|libutil\.|libresolv\.|libnsl\.|libanl\.)")
# Not needed by a server: tests, and graphical modules whose libraries are not copied.
LEFT_OUT = ("site-packages", "dist-packages", "test", "idlelib", "turtledemo", "tkinter", "_tkinter*", "config-*")


def copy_interpreter(folder: Path, patchelf: str) -> Path:
    """Copy the program, the standard library and the shared libraries, which the program finds relative to itself."""
    program = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard_library = folder / sys.platlibdir / name
    ignore = shutil.ignore_patterns(*LEFT_OUT, "EXTERNALLY-MANAGED")
    for source in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        shutil.copytree(source, standard_library, ignore=ignore, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    copied = folder / "bin" / name
    copied.parent.mkdir(parents=True)
    shutil.copy2(program, copied)
    for alias in ("python3", "python"):
        (copied.parent / alias).symlink_to(name)
    modules = sorted(standard_library.glob("lib-dynload/*.so"))
    copy_libraries([program, *modules], folder / "lib")
    # Unlike DT_RUNPATH, DT_RPATH also applies to modules that are loaded later and have no path of their own.
    for module in modules:
        subprocess.run([patchelf, "--remove-rpath", module], check=True)
    subprocess.run([patchelf, "--force-rpath", "--set-rpath", "$ORIGIN/../lib", copied], check=True)
    return copied


def copy_libraries(programs: list[Path], folder: Path) -> None:
    """Copy the shared libraries that `programs` load, under the names that the loader looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        output = subprocess.run(["ldd", program], check=False, capture_output=True, text=True).stdout
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", output, re.MULTILINE):
            if not C_LIBRARY.match(name) and not (folder / name).exists():
                shutil.copy2(os.path.realpath(path), folder / name)


def check_copy(copied: Path, folder: Path) -> None:
    """Exit if the copy does not start, or looks outside its folder."""
    program = "import ctypes, ssl, sys; print(sys.prefix)"
    result = subprocess.run([copied, "-I", "-c", program], check=False, capture_output=True, text=True, env={})
    if result.stdout.strip() != str(folder):
        sys.exit(f"the copied Python does not work: prefix {result.stdout.strip()!r}, {result.stderr}")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    check_copy(copy_interpreter(target, sys.argv[2]), target)
