"""Which files of a real tree are packed, and which rule says so."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError, SettingError
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.rules import PackingRules, Verdict
from buildkit.source.tree import SourceTree
from tests.checkouts import commit_all, run_git
from tests.trees import check_explained, explain, find_changes, make_tree, put, select

if TYPE_CHECKING:
    from pathlib import Path


SDK = "openhands-sdk/openhands/sdk"
SECRET_NAMES = """
    .env .env.local .ENV .envrc .netrc .pypirc id_rsa id_ed25519_sk cert.p12
    m.pyc __pycache__/m.py .venv/lib/m.py .ssh/config sub/.hg/store .AWS/credentials
    A.P8 a.pk8 a.jks a.keystore a.kdbx a.asc id_rsa.bak id_ed25519_work deploy_key prod-deploy-key Id_Rsa .NPMRC
    my-service-account.json service_account_prod.json application_default_credentials.json .azure/x .config/gcloud/x
    .env-prod .env_local prod.env .flaskenv .env~ .m.py.swp .npmrc .yarnrc.yml .pgpass .my.cnf .netrc~ .vault-token
    .docker/config.json .kube/config x.tfstate x.tfstate.backup x.tfvars x.auto.tfvars.json pip.conf .git-credentials
    .htpasswd
"""
HARMLESS_NAMES = """
    .env.example .env.sample .env.prod.template example.env .npmrc.dist env id_rsa.pub id_ed25519_work.pub git
    .github/x pyc config.json gcloud/x service.json terraform.tf x.bak deploy.key.md
"""


def test_the_same_files_in_git_and_outside_it(source_tree: Path) -> None:
    outside = select(source_tree)
    commit_all(source_tree)
    inside = select(source_tree)
    assert outside.files == inside.files == sorted(inside.files)
    assert (find_changes(source_tree), inside.warnings) == ([], [])
    assert f"{SDK}/workspace/__init__.py" in inside.files
    assert not {"AGENTS.md", ".dockerignore"} & set(inside.files)


def test_only_what_the_project_names_is_packed_by_default(git_repo: Path) -> None:
    put(git_repo, "notes.txt", "scripts/x.py", "openhands-sdkx/y.py")
    assert not {"notes.txt", "scripts/x.py", "openhands-sdkx/y.py"} & set(select(git_repo).files)
    assert explain(git_repo, "scripts/x.py") == Verdict(
        packed=False, reason="it is outside what is packed by default; INCLUDE adds it"
    )
    check_explained(git_repo)


def test_secrets_and_caches_are_never_packed_even_tracked_and_included(git_repo: Path) -> None:
    paths = [f"{SDK}/{number}/{name}" for number, name in enumerate(SECRET_NAMES.split())]
    put(git_repo, *paths, f"{SDK}/deep/.git")
    run_git(git_repo, "add", "-f", *paths)
    assert not {*paths, f"{SDK}/deep/.git"} & set(select(git_repo, include=["*"]).files)
    reasons = {path: explain(git_repo, path, include=["*"]).reason for path in (*paths, f"{SDK}/deep/.git")}
    assert not {path: reason for path, reason in reasons.items() if not reason.startswith("never packed: ")}


def test_what_only_looks_like_one_is_packed(git_repo: Path) -> None:
    paths = {f"{SDK}/{name}" for name in HARMLESS_NAMES.split()}
    put(git_repo, *paths)
    assert not paths - set(select(git_repo).files)


def test_a_private_key_is_told_by_its_content(git_repo: Path) -> None:
    (git_repo / SDK / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (git_repo / SDK / "own.pem").write_text("x\n-----BEGIN RSA PRIVATE KEY-----\n")
    (git_repo / SDK / "OWN.PEM").write_text("-----BEGIN PRIVATE KEY-----\n")
    files = select(git_repo).files
    assert f"{SDK}/ca.pem" in files
    assert not {f"{SDK}/own.pem", f"{SDK}/OWN.PEM"} & set(files)


@pytest.mark.parametrize("in_git", [True, False])
def test_a_virtual_environment_is_told_by_its_mark(source_tree: Path, in_git: bool) -> None:
    put(source_tree, f"{SDK}/my-env/pyvenv.cfg", f"{SDK}/my-env/lib/m.py", f"{SDK}/my-env-not/m.py")
    if in_git:
        commit_all(source_tree)
    packed = [path for path in select(source_tree).files if "my-env" in path]
    assert packed == [f"{SDK}/my-env-not/m.py"]
    check_explained(source_tree)


def test_our_own_output_is_never_packed(git_repo: Path) -> None:
    put(git_repo, f"{SDK}/out/version.json", f"{SDK}/.out.lock", f"{SDK}/out2/m.py")
    ours = [f"{SDK}/out", f"{SDK}/.out.lock"]
    assert [path for path in select(git_repo, ours=ours).files if "out" in path.rpartition("sdk/")[2]] == [
        f"{SDK}/out2/m.py"
    ]
    assert explain(git_repo, f"{SDK}/out/version.json", ours=ours).reason == "it is our own output"


def test_exclude_and_include_go_before_the_other_rules(git_repo: Path) -> None:
    (git_repo / ".gitignore").write_text("built/\n")
    put(git_repo, "built/web/app.js", "built/web/app.map", "extra/note.md", f"{SDK}/drop.py")
    rules = {"include": ["/built/", "AGENTS.md"], "exclude": ["*.map", "drop.py"]}
    files = select(git_repo, **rules).files
    assert "built/web/app.js" in files
    assert "AGENTS.md" in files
    assert not {"built/web/app.map", "extra/note.md", f"{SDK}/drop.py"} & set(files)
    assert explain(git_repo, f"{SDK}/drop.py", **rules) == Verdict(False, "pattern 'drop.py'", "EXCLUDE", 2)
    assert explain(git_repo, "built/web/app.js", **rules) == Verdict(True, "pattern '/built/'", "INCLUDE", 1)
    check_explained(git_repo, **rules)


def test_a_file_that_is_both_packed_by_default_and_included_is_packed_once(git_repo: Path) -> None:
    files = select(git_repo, include=["*.py"]).files
    assert len(files) == len(set(files))


def test_dockerignore_and_gitignore_are_named_with_their_lines(git_repo: Path) -> None:
    (git_repo / ".dockerignore").write_text("# tests\n**/tests\n!**/tests/keep.py\n")
    (git_repo / ".gitignore").write_text("*.log\n")
    put(git_repo, f"{SDK}/tests/t.py", f"{SDK}/a.log")
    assert explain(git_repo, f"{SDK}/tests/t.py") == Verdict(False, "pattern '**/tests'", ".dockerignore", 2)
    ignored = Verdict(False, "pattern '*.log', and git does not track it", ".gitignore", 1)
    assert explain(git_repo, f"{SDK}/a.log") == ignored
    run_git(git_repo, "add", "-f", f"{SDK}/a.log")
    assert explain(git_repo, f"{SDK}/a.log").packed
    check_explained(git_repo)


@pytest.mark.parametrize("fixture", ["git_repo", "source_tree"])
def test_an_exception_with_a_wildcard_reaches_into_excluded_folders(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    tree = request.getfixturevalue(fixture)
    put(tree, f"{SDK}/deep/er/kept.md", f"{SDK}/deep/er/dropped.txt")
    (tree / ".dockerignore").write_text(f"{SDK}\n!{SDK}/**/*.md\n")
    inside = [path for path in select(tree).files if path.startswith(f"{SDK}/")]
    assert inside == [f"{SDK}/deep/er/kept.md"]


def test_the_dockerignore_beside_an_own_dockerfile_comes_first(git_repo: Path) -> None:
    put(git_repo, f"{SDK}/a.md", f"{SDK}/a.txt", f"{SDK}/Dockerfile")
    (git_repo / ".dockerignore").write_text("**/*.md\n")
    (git_repo / SDK / "Dockerfile.dockerignore").write_text("# text\n**/*.txt\n")

    def list_left_out(dockerfile: str | None) -> list[str]:
        tree = SourceTree(git_repo, Settings(dockerfile=dockerfile), CiEnvironment())
        return [name for name in ("a.md", "a.txt") if not tree.explain(f"{SDK}/{name}").packed]

    assert list_left_out(f"{SDK}/Dockerfile") == ["a.txt"]
    assert list_left_out(f"{SDK}/Other") == ["a.md"]
    assert list_left_out(None) == ["a.md"]
    tree = SourceTree(git_repo, Settings(dockerfile=f"{SDK}/Dockerfile"), CiEnvironment())
    assert tree.explain(f"{SDK}/a.txt") == Verdict(False, "pattern '**/*.txt'", f"{SDK}/Dockerfile.dockerignore", 2)


def test_no_ignore_file_is_packed_where_a_builder_would_apply_it(git_repo: Path) -> None:
    names = ["Dockerfile.dockerignore", ".dockerignore", f"{SDK}/.dockerignore"]
    for name in names:
        (git_repo / name).write_text("")
    project = make_tree(git_repo).project._replace(roots=tuple(names))
    rules = PackingRules(git_repo, project, Settings(), ())
    assert [name for name in names if rules.packs(name)] == [f"{SDK}/.dockerignore"]
    assert [name for name in names if rules.explain(name) is None] == [f"{SDK}/.dockerignore"]


def test_a_repository_inside_the_tree_is_explained_by_its_own_rules(git_repo: Path) -> None:
    put(git_repo, f"{SDK}/nested/m.py", f"{SDK}/nested/a.log", f"{SDK}/nested/out/m.py", "apart/inner/m.py")
    (git_repo / SDK / "nested" / ".gitignore").write_text("*.log\n")
    (git_repo / ".gitignore").write_text("out/\n/apart/\n")
    commit_all(git_repo / SDK / "nested")
    commit_all(git_repo / "apart" / "inner")
    ignored = Verdict(False, "pattern '*.log', and git does not track it", ".gitignore", 1)
    assert explain(git_repo, f"{SDK}/nested/a.log") == ignored
    assert explain(git_repo, f"{SDK}/nested/out/m.py").packed
    check_explained(git_repo)


def test_a_generated_file_takes_the_place_of_the_trees_own(git_repo: Path) -> None:
    names = ("Dockerfile", "BUILD_INSTRUCTIONS.md", ".runtime-build/health.sh", f"{SDK}/Dockerfile")
    put(git_repo, *names)
    assert [path for path in select(git_repo, include=["*"]).files if path in names] == [f"{SDK}/Dockerfile"]
    for name in names[:3]:
        reason = "a generated file of that name is packed instead"
        assert explain(git_repo, name, include=["*"]) == Verdict(packed=False, reason=reason)


def test_what_cannot_be_packed_is_not_explained(git_repo: Path) -> None:
    os.mkfifo(git_repo / SDK / "fifo")
    assert explain(git_repo, f"{SDK}/fifo").reason == "it is not a file, folder or link"
    long = "x" * 300
    (git_repo / SDK / "link").symlink_to("workspace")
    behind = explain(git_repo, f"{SDK}/link/__init__.py")
    assert behind == Verdict(packed=False, reason="it is behind a symbolic link, which is packed as a link")
    for path, said in (
        ("nowhere", "no such file in the source directory: nowhere"),
        (f"{SDK}/no/where", "no such file"),
        (".git/nowhere", "no such file"),
        ("LICENSE/x", "no such file"),
        (SDK, "is a folder"),
        (long, "cannot be looked up: File name too long"),
    ):
        with pytest.raises(LocalError, match=said):
            explain(git_repo, path)


def test_a_file_that_was_deleted_or_never_existed_has_no_explanation(git_repo: Path) -> None:
    (git_repo / ".dockerignore").write_text("**/tests\n")
    (git_repo / SDK / "__init__.py").unlink()
    for path in (f"{SDK}/__init__.py", f"{SDK}/tests/never.py"):
        with pytest.raises(LocalError, match="no such file"):
            explain(git_repo, path)


def test_what_differs_from_the_commit_is_told_where_it_is_packed(git_repo: Path) -> None:
    put(git_repo, "AGENTS.md", f"{SDK}/new.py", "elsewhere.txt")
    (git_repo / "README.md").write_text("edited")
    (git_repo / SDK / "__init__.py").unlink()
    selected = select(git_repo)
    assert find_changes(git_repo) == ["README.md", f"{SDK}/__init__.py", f"{SDK}/new.py"]
    assert f"{SDK}/__init__.py" not in selected.files


@pytest.mark.parametrize("change", ["none", "outside", "edit", "new", "stage", "environment", "nested"])
def test_only_what_is_packed_counts_as_changed(git_repo: Path, change: str) -> None:
    if change == "outside":
        put(git_repo, "notes.txt")
    elif change == "edit":
        (git_repo / "README.md").write_text("edited")
    elif change == "new":
        put(git_repo, f"{SDK}/new.py")
    elif change == "stage":
        run_git(git_repo, "rm", "-q", "--cached", f"{SDK}/__init__.py")
    elif change == "environment":
        put(git_repo, f"{SDK}/my-env/pyvenv.cfg", f"{SDK}/my-env/lib/m.py")
    elif change == "nested":
        put(git_repo, f"{SDK}/nested/m.py")
        commit_all(git_repo / SDK / "nested")
        (git_repo / SDK / "nested" / "m.py").write_text("edited")
    assert bool(find_changes(git_repo)) is (change in {"edit", "new", "stage", "nested"})


def test_outside_git_nothing_has_changed(source_tree: Path) -> None:
    assert find_changes(source_tree, include=["*"]) == []


def test_a_file_that_git_was_told_to_forget_and_ignore_is_left_out(git_repo: Path) -> None:
    put(git_repo, f"{SDK}/private.txt")
    commit_all(git_repo)
    (git_repo / ".gitignore").write_text("private.txt\n")
    run_git(git_repo, "rm", "-q", "--cached", f"{SDK}/private.txt")
    selected = select(git_repo)
    assert f"{SDK}/private.txt" not in selected.files
    assert f"{SDK}/private.txt" in find_changes(git_repo)


def test_a_required_file_that_a_rule_leaves_out_is_an_error(git_repo: Path) -> None:
    (git_repo / ".dockerignore").write_text("*.lock\n")
    with pytest.raises(
        LocalError, match=r"uv\.lock is needed .*pattern '\*\.lock' \(\.dockerignore, line 1\)"
    ) as caught:
        select(git_repo)
    assert caught.value.fix == "set INCLUDE=/uv.lock"
    assert "uv.lock" in select(git_repo, include=["uv.lock"]).files


def test_a_sparse_checkout_is_not_packed_with_holes(git_repo: Path) -> None:
    run_git(git_repo, "sparse-checkout", "set", "--cone", "openhands-sdk")
    source = git_repo
    for member in ("openhands-agent-server", "openhands-tools", "openhands-workspace"):
        (source / member).mkdir()
        (source / member / "pyproject.toml").touch()
    with pytest.raises(LocalError, match="left out by the sparse checkout") as caught:
        select(source)
    assert caught.value.fix == "run `git sparse-checkout disable`"


def test_an_unpacked_tree_in_an_ignored_folder_is_walked(git_repo: Path, source_tree: Path) -> None:
    (git_repo / ".gitignore").write_text("unpacked/\n")
    unpacked = git_repo / "unpacked"
    for path in run_git(
        git_repo, "ls-files", "--", "LICENSE", "README.md", "pyproject.toml", "uv.lock", "openhands*"
    ).split():
        put(unpacked, path)
        (unpacked / path).write_bytes((git_repo / path).read_bytes())
    selected = select(unpacked)
    assert f"{SDK}/workspace/__init__.py" in selected.files
    assert selected.changed == []


@pytest.mark.parametrize("in_git", [True, False])
def test_links_are_not_entered(source_tree: Path, in_git: bool) -> None:
    (source_tree / SDK / "loop").symlink_to("..")
    (source_tree / SDK / "dangling").symlink_to("nowhere")
    if in_git:
        commit_all(source_tree)
    files = select(source_tree).files
    assert {f"{SDK}/loop", f"{SDK}/dangling"} <= set(files)
    assert not [path for path in files if path.startswith(f"{SDK}/loop/")]


@pytest.mark.parametrize("in_git", [True, False])
def test_specials_are_named_where_they_would_be_packed(source_tree: Path, in_git: bool) -> None:
    put(source_tree, "apart/x", f"{SDK}/.venv/x")
    for path in (f"{SDK}/fifo", "fifo", f"{SDK}/.venv/fifo"):
        os.mkfifo(source_tree / path)
    # The path of a socket has at most 107 characters.
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(source_tree / SDK):
        listener.bind("s")
    if in_git:
        commit_all(source_tree)
    assert select(source_tree).warnings == [
        f"skipped {SDK}/fifo: not a file, folder or link",
        f"skipped {SDK}/s: not a file, folder or link",
    ]


def test_names_that_trouble_others_are_told(git_repo: Path) -> None:
    put(
        git_repo,
        f"{SDK}/Twin.py",
        f"{SDK}/twin.py",
        f"{SDK}/Sub/a",
        f"{SDK}/sub/b",
        f"{SDK}/aux.py",
        "COM1",
        f"{SDK}/x.",
    )
    assert select(git_repo).warnings == [
        f"names that not every system allows: {SDK}/aux.py, {SDK}/x.",
        f"{SDK}/Sub and {SDK}/sub differ only in case",
        f"{SDK}/Twin.py and {SDK}/twin.py differ only in case",
    ]


def test_a_twin_that_is_not_packed_is_none(git_repo: Path) -> None:
    put(git_repo, f"{SDK}/Twin.py", f"{SDK}/twin.py")
    assert select(git_repo, exclude=["Twin.py"]).warnings == []


def test_a_control_character_in_a_packed_name_is_refused(git_repo: Path) -> None:
    put(git_repo, "a\nb", f"{SDK}/c\x1bd")
    with pytest.raises(LocalError, match="control characters") as caught:
        select(git_repo)
    assert caught.value.message.endswith(rf"'{SDK}/c\x1bd'")


@pytest.mark.parametrize("rules", [{"include": ["[a"]}, {"exclude": ["/"]}])
def test_a_pattern_that_is_none_is_refused(git_repo: Path, rules: dict[str, list[str]]) -> None:
    with pytest.raises(SettingError, match="is not a pattern"):
        select(git_repo, **rules)


def test_a_dockerignore_that_is_none_is_refused_while_git_is_at_work(git_repo: Path) -> None:
    (git_repo / ".dockerignore").write_text("a\nb[\n")
    with pytest.raises(SettingError, match=r"\.dockerignore, line 2"):
        select(git_repo)
    (git_repo / ".dockerignore").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match=r"\.dockerignore cannot be read"):
        select(git_repo)
