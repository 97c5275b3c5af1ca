"""What the images run while they are built, run here: stand-ins for package managers, folders for base images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rendering import render

PROGRAMS = Path(__file__).parents[1] / "templates" / "programs"
FOLDERS = (
    "etc",
    "home",
    "workspace",
    "usr",
    "opt",
    "proc",
    "var",
    "tmp",
    "root",
    "run",
    "lock",
    "agent-server",
    "openhands",
)
TOOLS = (
    "sh",
    "sed",
    "mkdir",
    "touch",
    "cp",
    "chmod",
    "cat",
    "rm",
    "install",
    "grep",
    "tr",
    "head",
    "dirname",
    "readlink",
    "sort",
)
MANAGERS = {
    "apt-get": "apt-get -o Acquire::Retries=5 install -y --no-install-recommends",
    "apk": "apk add --no-cache",
    "dnf": "dnf install -y",
    "microdnf": "microdnf install -y",
    "yum": "yum install -y",
    "zypper": "zypper --non-interactive install --no-recommends",
}


@dataclass
class Base:
    """A folder that stands for a base image, with only such programs on the PATH as were put there."""

    root: Path
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.root / "log"
        for folder in ("bin", "etc/skel", "home", "usr/bin", "opt/init/bin", "proc/1"):
            (self.root / folder).mkdir(parents=True)
        for tool in TOOLS:
            (self.root / "bin" / tool).symlink_to(str(shutil.which(tool)))
        self.add("chown")

    def add(self, name: str, script: str = "") -> None:
        """Put a stand-in on the PATH; it writes down how it was called."""
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def run(self, instruction: str) -> subprocess.CompletedProcess[str]:
        """Run a RUN instruction as if the folder were the root of the file system; nothing outside it is named."""
        shell = re.sub(r"^RUN (--mount=\S+ +)*", "", instruction)
        tops = "|".join(FOLDERS)
        shell = re.sub(rf"(?<![\w/.])(?!{self.root}/)/(?=(?:{tops})(?:[/ ;)\n]|$))", f"{self.root}/", shell)
        outside = [path for path in re.findall(r"(?<![\w/.:])/[a-z][\w./*-]*", shell) if not self._may_touch(path)]
        assert not outside, "the machine that runs the tests is not the image"
        path = f"{self.root}/bin:{self.root}/usr/bin"
        return subprocess.run(["sh", "-c", shell], check=False, env={"PATH": path}, text=True, capture_output=True)

    def _may_touch(self, path: str) -> bool:
        return path in ("/dev/null", "/bin/sh") or path.startswith(f"{self.root}/")

    def calls(self, name: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.split()[0] == name]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(tmp_path / "base")


def find_run(target: str, words: str, **settings: Any) -> str:
    """Return the RUN instruction of `target` that has these words in it."""
    rendered = render(target, **settings)
    text = "\n".join(line for line in rendered.text.splitlines() if not line.startswith("#"))
    found = [run for run in re.findall(r"^RUN (?:.*\\\n)*.*$", text, re.MULTILINE) if words in run]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("manager", MANAGERS)
def test_nothing_is_fetched_if_the_base_image_has_every_package(base: Base, manager: str) -> None:
    base.add("curl")
    base.add(manager)
    base.add("dpkg-query", "shift 2; for name; do echo install ok installed; done")
    base.add("rpm")
    result = base.run(find_run("source-minimal", "sudo tar"))
    assert result.returncode == 0, result.stderr
    assert not [
        line for line in base.log.read_text().splitlines() if line.startswith(MANAGERS[manager].split(" inst")[0])
    ]


@pytest.mark.parametrize("manager", MANAGERS)
def test_the_base_packages_are_installed_by_the_manager_that_is_there(base: Base, manager: str) -> None:
    base.add(manager, '[ "$1" != info ]')
    result = base.run(find_run("source-minimal", "sudo tar"))
    assert result.returncode == 0, result.stderr
    (call,) = [call for call in base.calls(manager) if "sudo" in call and " info " not in call]
    assert call.startswith(MANAGERS[manager] + " bash ca-certificates curl git")
    assert ("tini" in call.split()) == (manager in {"apt-get", "apk"})
    assert "tmux" in call.split()


def test_a_curl_that_is_there_is_not_installed_again(base: Base) -> None:
    base.add("microdnf")
    base.add("curl")
    base.run(find_run("source-minimal", "sudo tar"))
    assert "curl" not in base.calls("microdnf")[0].split()


def test_a_base_without_package_manager_is_told_so(base: Base) -> None:
    result = base.run(find_run("source-minimal", "sudo tar"))
    assert result.returncode == 1
    assert "no package manager found in the base image" in result.stderr


def test_a_failing_package_manager_fails_the_build(base: Base) -> None:
    base.add("dnf", "exit 3")
    assert base.run(find_run("source-minimal", "sudo tar")).returncode == 3


@pytest.mark.parametrize("feature", ["docker", "desktop"])
def test_a_feature_on_another_family_names_itself(base: Base, feature: str) -> None:
    base.add("apk")
    result = base.run(find_run("source", f"feature '{feature}'", features=frozenset({feature})))
    assert result.returncode == 1
    assert f"'{feature}' needs a base image of the Debian or Ubuntu family" in result.stderr
    assert "FEATURES" in result.stderr


def test_of_the_optional_packages_only_those_that_exist_are_installed(base: Base) -> None:
    base.add("apt-get")
    base.add("apt-cache", '[ "$2" = docker-cli ]')
    base.add("usermod")
    result = base.run(find_run("source", "docker.io"))
    assert result.returncode == 0, result.stderr
    (call,) = [call for call in base.calls("apt-get") if " install " in call]
    assert call.split()[-3:] == ["docker.io", "iptables", "docker-cli"]
    assert base.calls("usermod") == ["usermod -aG docker openhands"]


def test_tini_of_the_distribution_is_taken_where_there_is_one(base: Base) -> None:
    base.add("dnf", f'printf "#!/bin/sh\\n" >{base.root}/bin/tini; chmod 755 {base.root}/bin/tini')
    result = base.run(find_run("source-minimal", "tini -- true"))
    assert result.returncode == 0, result.stderr
    assert base.calls("dnf") == ["dnf install -y tini"]
    assert not (base.root / "usr/bin/tini").exists()


@pytest.mark.parametrize("manager", ["dnf", "microdnf", "yum", "zypper"])
def test_where_no_package_has_tini_another_init_stands_by_that_name(base: Base, manager: str) -> None:
    base.add(manager, "exit 1")
    (base.root / "opt/init/bin/dumb-init").write_text("#!/bin/sh\nexit 0\n")
    result = base.run(find_run("source-minimal", "tini -- true"))
    assert result.returncode == 0, result.stderr
    assert os.access(base.root / "usr/bin/tini", os.X_OK)
    assert not (base.root / "opt/init").exists()


def test_an_image_without_any_init_is_not_built(base: Base) -> None:
    base.add("dnf", "exit 1")
    assert base.run(find_run("source-minimal", "tini -- true")).returncode != 0


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        ("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n"),
        ("root:x:0:0::/root:/bin/sh\nnode:x:10001:10001::/home/node:/bin/sh\n", "root:x:0:\nnode:x:10001:\n"),
        ("root:x:0:0::/root:/bin/sh\nopenhands:x:1000:1000::/home/o:/bin/sh\n", "root:x:0:\nopenhands:x:1000:\n"),
        (
            "root:x:0:0::/root:/bin/sh\nopenhands:x:1000:5::/o:/bin/sh\na:x:10001:6::/a:/bin/sh\n",
            "root:x:0:\na:x:10001:\n",
        ),
        ("root:x:0:0::/root:/bin/sh\nother:x:5:10001::/o:/bin/sh\n", "root:x:0:\nother:x:10001:\n"),
        (
            "root:x:0:0::/root:/bin/sh\nopenhands:x:10001:10001::/home/openhands:/bin/bash\n",
            "root:x:0:\nopenhands:x:10001:\n",
        ),
    ],
    ids=["free", "numbers taken", "name taken", "both taken", "group taken", "there already"],
)
def test_the_user_has_its_name_and_numbers_whoever_had_them(base: Base, passwd: str, group: str) -> None:
    (base.root / "etc/passwd").write_text(passwd)
    (base.root / "etc/group").write_text(group)
    (base.root / "etc/skel/.bashrc").write_text("# hello\n")
    result = base.run(find_run("source-minimal", "NOPASSWD"))
    assert result.returncode == 0, result.stderr
    users = [line.split(":") for line in (base.root / "etc/passwd").read_text().splitlines()]
    groups = [line.split(":") for line in (base.root / "etc/group").read_text().splitlines()]
    assert [user[:4] for user in users if user[0] == "openhands" or user[2] == "10001"] == [
        ["openhands", "x", "10001", "10001"]
    ]
    assert [entry[0] for entry in groups if entry[0] == "openhands" or entry[2] == "10001"] == ["openhands"]
    assert ["root", "x", "0", "0"] in [user[:4] for user in users]
    assert (base.root / "etc/sudoers.d/openhands").stat().st_mode & 0o777 == 0o440
    assert (base.root / "home/openhands/.bashrc").is_file()
    assert (base.root / "workspace/project").is_dir()


def test_vs_code_left_out_is_said_and_unchecked_is_refused(base: Base) -> None:
    run = find_run("source", "VS Code for the web is left out")
    without = base.run(run.replace("RUN ", "RUN VSCODE_URL= VSCODE_SHA256=; ", 1))
    assert without.returncode == 0
    assert "VSCODE_URL and VSCODE_SHA256" in without.stdout
    unchecked = base.run(run.replace("RUN ", "RUN VSCODE_URL=https://x.example VSCODE_SHA256=; ", 1))
    assert unchecked.returncode == 1
    assert "without VSCODE_SHA256" in unchecked.stderr


@pytest.mark.parametrize(
    ("command", "address"),
    [
        (["tini", "--", "server"], "127.0.0.1:8000"),
        (["tini", "--", "server", "--host", "0.0.0.0", "--port", "60000"], "127.0.0.1:60000"),
        (["tini", "--", "server", "--port=81", "--host=10.0.0.7"], "10.0.0.7:81"),
        (["docker-init", "--", "tini", "--", "server", "--host", "::", "--port", "9"], "[::1]:9"),
        (["tini", "--", "server", "--host", "fd00::1"], "[fd00::1]:8000"),
        (["tini", "--", "server", "--name", "*", "--port", "9"], "127.0.0.1:9"),
    ],
)
def test_the_health_check_asks_where_the_server_listens(base: Base, command: list[str], address: str) -> None:
    base.add("curl", "echo 200")
    (base.root / "proc/1/cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))
    script = (PROGRAMS / "health.sh").read_text()
    result = base.run(f"RUN set -- 8000\n{script.replace('/health', 'HEALTH')}")
    assert result.returncode == 0, result.stderr
    assert base.calls("curl") == [f"curl -sS -o /dev/null -w %{{http_code}} --max-time 4 http://{address}HEALTH"]


@pytest.mark.parametrize(
    ("status", "is_alive"),
    [("200", True), ("204", True), ("302", True), ("401", True), ("403", True), ("404", False), ("503", False)],
)
def test_a_server_is_alive_if_it_responds_or_asks_for_a_key(base: Base, status: str, is_alive: bool) -> None:
    base.add("curl", f"echo {status}")
    (base.root / "proc/1/cmdline").write_bytes(b"tini\0server\0")
    script = (PROGRAMS / "health.sh").read_text().replace("/health", "HEALTH")
    result = base.run(f"RUN set -- 8000 PING\n{script}")
    assert (result.returncode == 0) is is_alive
    assert base.calls("curl")[0].endswith("http://127.0.0.1:8000PING")


def test_a_server_that_does_not_respond_is_not_alive(base: Base) -> None:
    base.add("curl", "echo 000; exit 7")
    (base.root / "proc/1/cmdline").write_bytes(b"tini\0server\0")
    script = (PROGRAMS / "health.sh").read_text().replace("/health", "HEALTH")
    assert base.run(f"RUN set -- 8000\n{script}").returncode == 7


@pytest.mark.parametrize("missing", [False, True])
def test_no_package_manager_runs_if_everything_is_there(base: Base, missing: bool) -> None:
    line = "dpkg-query: no packages found matching tmux" if missing else "install ok installed"
    base.add("apt-get")
    base.add("dpkg-query", f"echo 'install ok installed'; echo '{line}' >&2")
    result = base.run(find_run("source-minimal", "sudo tar"))
    assert result.returncode == 0, result.stderr
    ran = [line for line in base.log.read_text().splitlines() if line.startswith("apt-get")]
    assert bool(ran) is missing


def test_on_an_rpm_base_nothing_runs_either_if_everything_is_there(base: Base) -> None:
    base.add("rpm")
    base.add("dnf")
    result = base.run(find_run("source-minimal", "sudo tar"))
    assert result.returncode == 0, result.stderr
    assert not [line for line in base.log.read_text().splitlines() if line.startswith("dnf")]


def test_a_copied_python_starts_from_its_folder(tmp_path: Path) -> None:
    patchelf = tmp_path / "patchelf"
    patchelf.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    patchelf.chmod(0o755)
    folder = tmp_path / "python"
    command = [sys.executable, str(PROGRAMS / "copy_python.py"), str(folder), str(patchelf)]
    subprocess.run(command, check=True)
    found = subprocess.run(
        [folder / "bin/python3", "-I", "-c", "import os; print(os.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(folder))
    assert not list(folder.rglob("site-packages"))
    assert "--force-rpath --set-rpath $ORIGIN/../lib" in (tmp_path / "calls").read_text()
    assert not list((folder / "lib").glob("libc.so*"))


def install_agents(base: Base, *, wheel: str = "exit 0") -> subprocess.CompletedProcess[str]:
    """Run the program that installs ACP agents; `npm` of the Node in the wheel installs one that is called `agent`."""
    (base.root / "usr/local/bin").mkdir(parents=True)
    for name, script in {
        "bin/node": f'case $1 in -e) {wheel} ;; esac\nmkdir -p "$ACP_NODE_DIR/bin"; touch "$ACP_NODE_DIR/bin/agent"',
        "lib/node_modules/npm/bin/npm-cli.js": "",
    }.items():
        path = base.root / "tmp/node" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    script = (PROGRAMS / "agents.sh").read_text().split("\n", 1)[1]
    return base.run(f"RUN export ACP_NODE_DIR=/opt/acp-node; set -- /tmp/node agent@1\n{script}")


def test_the_agents_are_started_with_the_node_that_the_base_image_lacks(base: Base) -> None:
    result = install_agents(base)
    assert result.returncode == 0, result.stderr
    started = (base.root / "usr/local/bin/agent").read_text()
    assert f'PATH="{base.root}/opt/acp-node/bin:$PATH"' in started
    assert f'exec "{base.root}/opt/acp-node/bin/agent"' in started
    assert (base.root / "opt/acp-node/lib/node_modules/npm").is_dir()
    assert (base.root / "etc/claude-code/managed-settings.json").is_file()
    assert not (base.root / "usr/local/bin/node").exists()


def test_a_node_of_the_base_image_is_used_if_it_is_new_enough(base: Base) -> None:
    base.add("node", 'case $1 in -e) exit 0 ;; esac; mkdir -p "$ACP_NODE_DIR/bin"; touch "$ACP_NODE_DIR/bin/agent"')
    base.add("npm")
    result = install_agents(base)
    assert result.returncode == 0, result.stderr
    assert f'PATH="{base.root}/bin:$PATH"' in (base.root / "usr/local/bin/agent").read_text()
    assert not (base.root / "opt/acp-node/bin/node").exists()


def test_an_old_node_of_the_base_image_is_not_used(base: Base) -> None:
    base.add("node", "exit 1")
    base.add("npm")
    assert install_agents(base).returncode == 0
    assert (base.root / "opt/acp-node/bin/node").is_file()


def test_agents_whose_node_cannot_run_are_left_out_with_a_line_that_says_so(base: Base) -> None:
    result = install_agents(base, wheel="exit 127")
    assert result.returncode == 0
    assert "the ACP agents are left out" in result.stdout
    assert not (base.root / "opt/acp-node").exists()
