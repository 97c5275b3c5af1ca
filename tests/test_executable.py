"""The programs that make the executable; PyInstaller is a stand-in here, and the real one in the engine's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "templates" / "programs"
SPEC = """
analysis = Analysis(['app/__main__.py'])
EXE(PYZ(analysis.pure), analysis.scripts, analysis.datas, name='server')
"""
SOURCE = {
    "app/__init__.py": '"""The server."""\nfrom app.core import answer\n\nVERSION = "1"\n',
    "app/__main__.py": "from app import answer\n\nprint(answer())\n",
    "app/core.py": "from __future__ import annotations\n\n\ndef answer():\n    import json\n    return json.dumps(1)\n",
    "app/page.html": "<p>",
    "README.md": "Read me",
    "server.spec": SPEC,
}
OUTLINED = "if __name__ is None:\n    import __future__\n    import json\n"
# As PyInstaller: a spec is run with its names, the analysis reads the modules, an executable is made of files.
STAND_IN = {
    "__init__.py": "__version__ = '6.10.0'\n",
    "__main__.py": """
import runpy
from PyInstaller.building import build_main
def run(arguments):
    build_main.folders = dict(zip(arguments[2::2], arguments[3::2]))
    names = ("Analysis", "PYZ", "EXE", "COLLECT", "BUNDLE", "MERGE", "Splash")
    runpy.run_path(arguments[-1], {name: getattr(build_main, name) for name in names})
""",
    "building/__init__.py": "",
    "building/build_main.py": """
import json
from pathlib import Path
BUNDLE = COLLECT = MERGE = Splash = lambda *parts, **options: None
class Analysis:
    def __init__(self, scripts, datas=(), kind="PYSOURCE"):
        print("analysed", len(Path("app/core.py").read_text()))
        self.scripts = [("main", str(Path(script).absolute()), kind) for script in scripts]
        modules = {"app": "app/__init__.py", "app.core": "app/core.py", "json": json.__file__}
        self.pure = [(name, str(Path(path).absolute()), "PYMODULE") for name, path in modules.items()]
        self.pure.append(("space", "-", "PYMODULE"))
        self.datas = [*datas, ("v", None, "OPTION")]
def PYZ(*parts):
    return [("PYZ/" + name, source, kind) for part in parts for name, source, kind in part]
def EXE(*parts, name):
    folder = Path(folders["--distpath"], f"{name}.d")
    for place, source, kind in (entry for part in parts for entry in part):
        if source and source != "-":
            named = kind in ("DEPENDENCY", "SYMLINK")
            content = source.encode() if named else Path(source).read_bytes()
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)
    folder.with_suffix("").touch()
""",
    "archive/__init__.py": "",
    "archive/readers.py": """
from pathlib import Path
class CArchiveReader:
    def __init__(self, executable):
        self.folder = Path(executable + ".d")
        self.toc = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
    def extract(self, name):
        return (self.folder / name).read_bytes()
""",
}


@dataclass
class Builder:
    """A folder that stands for the builder stages of a Dockerfile."""

    root: Path

    def outline(self, source: Path) -> Path:
        """Return the outline of a source; what there is to note is beside it."""
        folder = self.root / "outlines" / str(len(list((self.root / "outlines").iterdir())))
        folder.mkdir()
        self.run("outline.py", source, folder / "outline", folder / "notes", cwd=source)
        return folder / "outline"

    def analyse(self, source: Path, *, split: bool = False) -> str:
        """Analyse a source by its outline, make the executable of all else if it is split, and return the log."""
        outline = self.outline(source)
        (outline.parent / "notes").rename(self.root / "pyinstaller")
        # In an image the outline stands where the source will stand.
        source.rename(self.root / "source")
        outline.rename(source)
        log = self.run("analyse.py", "server.spec", "app", cwd=source)
        if split:
            log += self.run("split.py", "server.spec", "server", cwd=source)
        source.rename(outline)
        (self.root / "source").rename(source)
        return log

    def bundle(self, source: Path) -> str:
        """Make the executable and return the log."""
        return self.run("bundle.py", "server.spec", "server", cwd=source)

    def run(self, program: str, *arguments: object, cwd: Path) -> str:
        command = [sys.executable, "-B", str(self.root / program), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": f"{self.root}:{cwd}", "BINARY_OMIT": "*/Docker*"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return done.stdout


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    for path in PROGRAMS.glob("*.py"):
        program = path.read_text().replace('"/pyinstaller"', repr(str(tmp_path / "pyinstaller")))
        program = program.replace('"/dist"', repr(str(tmp_path / "dist")))
        # Everything here lies in the folder for temporary files.
        (tmp_path / path.name).write_text(program.replace("tempfile.gettempdir()", '"/nowhere"'))
    write_files(tmp_path / "PyInstaller", STAND_IN)
    (tmp_path / "outlines").mkdir()
    return Builder(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_files(tmp_path / "tree", SOURCE)
    return tmp_path / "tree"


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def read_tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of everything in a folder: what some builder compares."""
    return {
        path.relative_to(root).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("app/core.py", "from __future__ import division\nimport json\n\n\ndef answer():\n    return json.dumps(2)\n"),
        ("app/__init__.py", "from app.core import answer\nVERSION = '2'\nprint(VERSION)\n"),
        ("app/page.html", "<p>other"),
        ("README.md", "Other"),
    ],
)
def test_a_touched_file_leaves_the_outline_as_it_is(builder: Builder, source: Path, name: str, content: str) -> None:
    before = builder.outline(source)
    write_files(source, {name: content})
    after = builder.outline(source)
    assert read_tree(before.parent) == read_tree(after.parent)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("app/core.py", "def answer():\n    import json, wave\n"),
        ("app/core.py", "import json\nfrom ctypes import CDLL\nCDLL('libm.so.6')\n"),
        ("app/core.py", "import json\nfrom importlib import metadata\nVERSION = metadata.version('attrs')\n"),
        ("app/new.py", ""),
        ("app/new.html", ""),
        ("server.spec", SPEC + "\n"),
        ("app/hook-json.py", "hiddenimports = []\n"),
        ("app/library.so", "x"),
        ("app/program", "\x7fELF"),
        ("app/modules.zip", "PK"),
    ],
)
def test_what_may_change_an_analysis_changes_the_outline(
    builder: Builder, source: Path, name: str, content: str
) -> None:
    before = builder.outline(source)
    write_files(source, {name: content})
    after = builder.outline(source)
    assert read_tree(before) != read_tree(after)


def test_an_outline_has_every_import_and_runs_nothing(builder: Builder, source: Path) -> None:
    text = "import os.path as p, sys\ntry:\n    from .a import *\nexcept ImportError:\n    x = 1\nraise SystemExit\n"
    write_files(source, {"app/many.py": text})
    outline = builder.outline(source)
    told = "if __name__ is None:\n    from .a import *\n    import os.path as p, sys\n"
    assert (outline / "app/many.py").read_text() == told
    assert (outline / "app/core.py").read_text() == OUTLINED
    for path in outline.rglob("*.py"):
        names: dict[str, object] = {"__name__": "outline"}
        exec(compile(path.read_text(), str(path), "exec"), names)
        assert set(names) == {"__name__", "__builtins__"}


def test_what_the_analysis_reads_whole_or_runs_is_whole(builder: Builder, source: Path) -> None:
    whole = {
        "hooks/hook-app.py": "hiddenimports = ['app.core']\n",
        "app/__pyinstaller/__init__.py": "def get_hook_dirs(): return ['x']\n",
        ".packages/editable_finder.py": "MAPPING = {}\n",
        ".packages/app.pth": "import editable_finder\n",
        "app/template.py": "{% if x %}\nimport os\n",
        "app/deep.py": f"import json\nx = {'-' * 5000}1\n",
    }
    write_files(source, whole | {".packages/app.dist-info/METADATA": "Name: app\nVersion: 1\n\nThe README\n"})
    outline = builder.outline(source)
    assert {name: (outline / name).read_text() for name in whole} == whole
    assert (outline / ".packages/app.dist-info/METADATA").read_text() == "Name: app\nVersion: 1\n"


def test_modes_and_links_are_in_the_outline(builder: Builder, source: Path) -> None:
    (source / "app/page.html").chmod(0o755)
    (source / "app/link").symlink_to("page.html")
    (source / "linked").symlink_to("app")
    (source / "gone").symlink_to("nowhere")
    outline = builder.outline(source)
    assert (outline / "app/page.html").stat().st_mode & 0o777 == 0o755
    links = [(outline / name).readlink().name for name in ("app/link", "linked", "gone")]
    assert links == ["page.html", "app", "nowhere"]
    listed = (outline.parent / "notes/outlined.txt").read_text().splitlines()
    assert listed == ["README.md", "app/__init__.py", "app/__main__.py", "app/core.py", "app/page.html"]


def test_the_executable_is_made_of_the_source_and_the_analysis_is_not_repeated(builder: Builder, source: Path) -> None:
    log = builder.analyse(source)
    assert f"analysed {len(OUTLINED)}" in log
    assert "data files that the spec leaves out, added:\n    app/page.html" in log
    assert not (builder.root / "dist").exists()
    write_files(source, {"app/core.py": "import json\nanswer = 'touched'\n"})
    made = builder.bundle(source)
    assert "analysed" not in made
    assert "all 1 data files of the packages are in the executable" in made
    carried = builder.root / "dist/server.d"
    assert (carried / "PYZ/app.core").read_text() == "import json\nanswer = 'touched'\n"
    assert (carried / "main").read_text() == SOURCE["app/__main__.py"]
    assert (carried / "app/page.html").read_text() == "<p>"


def test_a_split_executable_has_the_source_beside_it(builder: Builder, source: Path) -> None:
    more = "analysis.datas + [('config', 'README.md', 'DATA'), ('link', 'config', 'SYMLINK')]"
    write_files(source, {"server.spec": SPEC.replace("analysis.datas", more)})
    builder.analyse(source, split=True)
    made = builder.root / "dist"
    assert sorted(path.name for path in made.iterdir()) == ["server", "server.d"]
    before = read_tree(made)
    write_files(source, {"app/core.py": "import json\n\n\ndef answer():\n    return json.dumps('touched')\n"})
    log = builder.bundle(source)
    assert "analysed" not in log
    assert "all 1 data files of the packages are in the executable" in log
    files = [path for path in (made / "server.own.d").rglob("*") if path.is_file()]
    own = {path.relative_to(made / "server.own.d").as_posix() for path in files}
    assert own == {"app/__init__.pyc", "app/core.pyc", "app/page.html", "config", "main.script"}
    assert (made / "server.own.d/config").read_text() == SOURCE["README.md"]
    assert {name: entry for name, entry in read_tree(made).items() if not name.startswith("server.own")} == before
    references = {path for path in own if (made / "server.d" / path).read_text() == "server.own"}
    assert references == own
    assert (made / "server.d/PYZ/json").exists()
    assert not (made / "server.d/PYZ/app").exists()
    # The script in the large executable runs the one in the small, among the modules that both are unpacked to.
    start = "import sys, runpy; sys.path[:0] = [sys.argv[1]]; sys._MEIPASS = sys.argv[1]; runpy.run_path(sys.argv[2])"
    command = [sys.executable, "-c", start, str(made / "server.own.d"), str(made / "server.d/main")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == '"touched"\n'


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("open('README.md')\n" + SPEC, "it reads "),
        (SPEC + SPEC, "the spec builds 2 of them"),
    ],
)
def test_what_cannot_be_split_is_said(builder: Builder, source: Path, spec: str, reason: str) -> None:
    write_files(source, {"server.spec": spec})
    with pytest.raises(RuntimeError, match=f"the executable cannot be split: {reason}"):
        builder.analyse(source, split=True)


def test_a_spec_that_makes_another_executable_is_not_split(builder: Builder, source: Path) -> None:
    write_files(source, {"server.spec": SPEC.replace("'server'", "'other'")})
    with pytest.raises(RuntimeError, match="the spec does not build the executable server, but other"):
        builder.analyse(source, split=True)


def test_a_spec_may_read_the_metadata(builder: Builder, source: Path) -> None:
    metadata = ".packages/app.dist-info/METADATA"
    write_files(source, {metadata: "Name: app\n\nThe README\n", "server.spec": f"open({metadata!r}).read()\n{SPEC}"})
    builder.analyse(source)
    assert not (builder.root / "pyinstaller/unresolved.txt").exists()


UNRESOLVED = {
    "reads a file": ("text = open('app/page.html').read()\n" + SPEC, "it reads "),
    "imports the source": ("import app\n" + SPEC, "it reads "),
    "uses the source": ("from app import VERSION\n" + SPEC, "cannot import name 'VERSION'"),
    "makes a folder": (SPEC + "COLLECT(analysis.datas)\n", "it makes more than an executable"),
    "has other options": (SPEC.replace("'server'", "__import__('pathlib').Path('server')"), "not plain values"),
    "has a script by another name": (
        SPEC.replace("app/__main__.py", "app/page.html"),
        "it runs a script whose name does not end in .py",
    ),
    "compiles": (
        SPEC.replace("analysis.datas", "analysis.datas + [('x', '{work}/localpycs/x.pyc', 'DATA')]"),
        "the analysis creates a file itself: x",
    ),
    "fails": ("raise SystemExit('no such thing')\n" + SPEC, "SystemExit: no such thing"),
}


@pytest.mark.parametrize("name", UNRESOLVED)
def test_a_spec_that_asks_for_more_is_analysed_over_the_source(builder: Builder, source: Path, name: str) -> None:
    spec, reason = UNRESOLVED[name]
    work = builder.root / "pyinstaller"
    write_files(source, {"server.spec": spec.replace("{work}", str(work))})
    builder.analyse(source)
    assert reason in (work / "unresolved.txt").read_text()
    write_files(work / "localpycs", {"x.pyc": "compiled"})
    if name == "fails":
        with pytest.raises(RuntimeError, match="no such thing"):
            builder.bundle(source)
        return
    log = builder.bundle(source)
    assert "server.spec is analysed again with every change of the source: " in log
    assert reason in log
    assert f"analysed {len(SOURCE['app/core.py'])}" in log
    assert (builder.root / "dist/server.d/PYZ/app.core").read_text() == SOURCE["app/core.py"]


@pytest.mark.parametrize(
    "line",
    [
        "__path__ = __import__('pkgutil').extend_path(__path__, __name__)",
        "__path__.append('elsewhere')",
        "__import__('pkg_resources').declare_namespace(__name__)",
    ],
)
def test_a_package_that_says_where_its_modules_are_is_analysed_over_the_source(
    builder: Builder, source: Path, line: str
) -> None:
    write_files(source, {"app/__init__.py": f"{line}\nfrom app.core import answer\n"})
    assert "analysed" not in builder.analyse(source)
    unresolved = (builder.root / "pyinstaller/unresolved.txt").read_text()
    assert unresolved == "packages search for their modules elsewhere: app/__init__.py\n"


def test_data_files_of_every_importable_package_are_added(builder: Builder, source: Path) -> None:
    files = (
        "app/docker/Dockerfile",
        "app/__pycache__/x.txt",
        "app/.hidden",
        "plain/__init__.py",
        "plain/data/x.json",
        "tests/unreachable.txt",
        "app/other.spec",
    )
    write_files(source, dict.fromkeys(files, ""))
    log = builder.analyse(source)
    assert log.split("added:\n")[1].split() == ["app/.hidden", "app/page.html", "plain/data/x.json"]


@pytest.mark.parametrize(("place", "content"), [("app/page.html", None), ("app/page.html", "<p>other")])
def test_an_executable_that_lacks_a_data_file_fails_the_build_by_name(
    builder: Builder, source: Path, place: str, content: str | None
) -> None:
    builder.analyse(source)
    stand_in = builder.root / "PyInstaller/building/build_main.py"
    change = f"    file = folder / {place!r}\n    file.unlink()\n"
    change += f"    file.write_text({content!r})\n" if content else ""
    stand_in.write_text(stand_in.read_text() + change)
    with pytest.raises(RuntimeError, match=rf"missing from the executable.*\n    {place}"):
        builder.bundle(source)


def test_a_spec_that_makes_no_one_file_executable_is_named(builder: Builder, source: Path) -> None:
    write_files(source, {"server.spec": SPEC.replace("'server'", "'other'")})
    builder.analyse(source)
    with pytest.raises(RuntimeError, match=r"no one-file executable server, but: other, other\.d"):
        builder.bundle(source)


def set_version(builder: Builder, version: str) -> None:
    (builder.root / "PyInstaller/__init__.py").write_text(f"__version__ = {version!r}\n")


@pytest.mark.parametrize("version", ["5.13.2", "5.14", "6.0.0", "6.22.3"])
def test_a_tested_version_of_pyinstaller_analyses_the_outline(builder: Builder, source: Path, version: str) -> None:
    set_version(builder, version)
    assert "analysed" in builder.analyse(source)
    assert not (builder.root / "pyinstaller/unresolved.txt").exists()


@pytest.mark.parametrize("version", ["4.10", "5.13.1", "6.23.0", "7.0.0rc1", "7.1"])
def test_another_version_gets_the_spec_as_it_is_because_replaced_names_may_not_be_there(
    builder: Builder, source: Path, version: str
) -> None:
    """The programs replace `Analysis`, `PYZ` and `EXE` in a module that PyInstaller's documentation does not mention.

    A version in which these names have moved or take other arguments could build another executable without an error.
    """
    set_version(builder, version)
    stand_in = builder.root / "PyInstaller/building/build_main.py"
    stand_in.write_text(stand_in.read_text() + "import sys\nprint('replaced', 'analyse' in Analysis.__module__)\n")
    write_files(
        source,
        {
            "server.spec": SPEC.replace(
                "analysis.datas", "analysis.datas + [('app/page.html', 'app/page.html', 'DATA')]"
            )
        },
    )
    assert "analysed" not in builder.analyse(source)
    log = builder.bundle(source)
    assert f"PyInstaller {version} is not one of the tested versions" in log
    assert "added" not in log
    assert "all 1 data files of the packages are in the executable" in log


def test_another_version_still_fails_by_a_missing_data_file_and_is_never_split(builder: Builder, source: Path) -> None:
    set_version(builder, "7.0")
    with pytest.raises(RuntimeError, match=r"the executable cannot be split: PyInstaller 7\.0 is not"):
        builder.analyse(source, split=True)
    source.rename(builder.root / "outlines/0/outline")
    (builder.root / "source").rename(source)
    with pytest.raises(RuntimeError, match=r"missing from the executable.*\n    app/page.html"):
        builder.bundle(source)
