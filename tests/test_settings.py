"""Which layer a setting comes from, the `.env` file, and what the settings must be together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.envfile import read_env_file, read_variables
from buildkit.errors import SettingError
from buildkit.precedence import find_root, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.precedence import LoadedSettings

KEY = "s3cret-Key"
LAYERS = ("flag", "environment", ".env", "tasks.py")


def load(root: Path, env_file: str = "", flags: Any = (), environment: Any = (), defaults: Any = ()) -> LoadedSettings:
    (root / ".env").write_text(env_file, encoding="utf-8")
    return load_settings(dict(flags), dict(environment), root, dict(defaults))


def refuse(root: Path, env_file: str = "", **layers: Any) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load(root, env_file, **layers)
    return caught.value


def read(root: Path, text: str | bytes, **environment: str) -> dict[str, str]:
    (root / ".env").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return read_env_file(root / ".env", environment)


@pytest.mark.parametrize("highest", range(5))
@pytest.mark.parametrize("empty", [False, True], ids=["unset", "empty"])
def test_highest_layer_that_is_not_empty_wins(tmp_path: Path, highest: int, *, empty: bool) -> None:
    above = {"CUSTOM_TAGS": ""} if empty else {}
    layers = [above if place < highest else {"CUSTOM_TAGS": f"from-{place}"} for place in range(4)]
    env_file = "".join(f"{name}={value}\n" for name, value in layers[2].items())
    loaded = load(tmp_path, env_file, flags=layers[0], environment=layers[1], defaults=layers[3])
    assert loaded.settings.custom_tags == ((f"from-{highest}",) if highest < 4 else ("python",))
    assert loaded.origins["CUSTOM_TAGS"] == (LAYERS[highest] if highest < 4 else "default")


def test_without_anything_all_is_default(tmp_path: Path) -> None:
    loaded = load_settings({}, {}, tmp_path / "nowhere", {})
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.settings.target == "binary"
    assert loaded.settings.clean_output is True
    assert loaded.settings.runtime_api_url is None


def test_all_bad_settings_are_named_at_once_with_where_they_came_from(tmp_path: Path) -> None:
    layers = {"environment": {"CUSTOM_TAGS": "-x"}, "defaults": {"SERVER_PORT": "no"}}
    error = refuse(tmp_path, "TARGET=sauce\n", **layers)
    assert "TARGET is not one of" in error.message
    assert "'sauce' (from .env)" in error.message
    assert "'-x' (from environment)" in error.message
    assert "'no' (from tasks.py)" in error.message
    assert "set TARGET=source" in error.fix


@pytest.mark.parametrize(
    ("given", "missing"), [("RUNTIME_API_URL", "RUNTIME_API_KEY"), ("RUNTIME_API_KEY", "RUNTIME_API_URL")]
)
def test_url_and_key_go_together(tmp_path: Path, given: str, missing: str) -> None:
    value = {"RUNTIME_API_URL": "https://example.com", "RUNTIME_API_KEY": KEY}[given]
    error = refuse(tmp_path, f"{given}={value}\n")
    assert error.message == f"{given} is set, but {missing} is not"
    assert missing in error.fix


@pytest.mark.parametrize(
    ("key_layer", "url_layer", "allowed"),
    [
        ("environment", "environment", True),
        ("environment", "flag", True),
        (".env", "environment", True),
        ("tasks.py", ".env", True),
        ("environment", ".env", False),
        ("environment", "tasks.py", False),
        (".env", "tasks.py", False),
    ],
)
def test_key_goes_only_to_a_url_of_its_own_layer_or_a_higher_one(
    tmp_path: Path, key_layer: str, url_layer: str, *, allowed: bool
) -> None:
    layers: dict[str, dict[str, str]] = {name: {} for name in LAYERS}
    layers[key_layer]["RUNTIME_API_KEY"] = KEY
    layers[url_layer]["RUNTIME_API_URL"] = "https://example.com"
    env_file = "".join(f"{name}={value}\n" for name, value in layers.pop(".env").items())
    given = {"flags": layers["flag"], "environment": layers["environment"], "defaults": layers["tasks.py"]}
    if allowed:
        assert load(tmp_path, env_file, **given).settings.runtime_api_url == "https://example.com"
    else:
        error = refuse(tmp_path, env_file, **given)
        assert f"RUNTIME_API_KEY comes from {key_layer}, but RUNTIME_API_URL from {url_layer}" in error.message
        assert error.fix == "set RUNTIME_API_URL where RUNTIME_API_KEY is set"


def test_hosts_that_may_receive_the_key_come_from_its_own_layer_or_a_higher_one(tmp_path: Path) -> None:
    environment = {"RUNTIME_API_URL": "https://example.com", "RUNTIME_API_KEY": KEY}
    assert "ALLOWED_HOSTS" in refuse(tmp_path, "ALLOWED_HOSTS=evil.example\n", environment=environment).message
    environment["ALLOWED_HOSTS"] = "replica.example.com"
    assert load(tmp_path, environment=environment).settings.allowed_hosts == ("replica.example.com",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_env_file_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CUSTOM_TAGS=x\n")
    os.chown(tmp_path / ".env", 54321, -1)
    with pytest.raises(SettingError, match="another user"):
        read_env_file(tmp_path / ".env", {})


@pytest.mark.parametrize("layer", ["flags", "environment", "defaults", "env_file"])
def test_removed_setting_is_refused_with_what_takes_its_place(tmp_path: Path, layer: str) -> None:
    given: dict[str, Any] = {layer: "FORCE=true\n" if layer == "env_file" else {"FORCE": "true"}}
    error = refuse(tmp_path, **given)
    assert error.message.startswith("no longer a setting: FORCE (from ")
    assert "`--force`" in error.fix
    load(tmp_path, "FORCE=\n")


@pytest.mark.parametrize(
    "host", ["example.com", "10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", "0.0.0.0"]
)
def test_key_goes_nowhere_without_tls_unless_allowed(tmp_path: Path, host: str) -> None:
    settings = {"RUNTIME_API_URL": f"http://{host}", "RUNTIME_API_KEY": KEY}
    assert "ALLOW_HTTP=true" in refuse(tmp_path, environment=settings).fix
    assert load(tmp_path, environment=settings | {"ALLOW_HTTP": "true"}).settings.runtime_api_url == f"http://{host}"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "LOCALHOST"])
def test_loopback_needs_no_tls(tmp_path: Path, host: str) -> None:
    load(tmp_path, environment={"RUNTIME_API_URL": f"http://{host}:8080", "RUNTIME_API_KEY": KEY})


def test_builder_goes_with_buildx_only(tmp_path: Path) -> None:
    assert "ENGINE=buildx" in refuse(tmp_path, "BUILDER=remote\nENGINE=podman\n").fix
    assert load(tmp_path, "BUILDER=remote\n").settings.builder == ("remote",)


@pytest.mark.parametrize(
    "value", [f"https://example.com/?key={KEY}", f"https://u:p/{KEY}@example.com", f"https://h:{KEY}"]
)
def test_key_in_another_refused_value_is_not_shown(tmp_path: Path, value: str) -> None:
    error = refuse(tmp_path, environment={"RUNTIME_API_URL": value, "RUNTIME_API_KEY": KEY, "TARGET": KEY})
    assert KEY not in error.message + error.fix
    assert "***" in error.message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TARGETS", "TARGET"),
        ("target", "TARGET"),
        ("OUTPUTDIR", "OUTPUT_DIR"),
        ("RUNTIME_API_TOKEN", "RUNTIME_API_"),
        ("CUSTOM_TAG", "CUSTOM_TAGS"),
    ],
)
def test_name_in_env_file_that_looks_misspelt_is_a_warning(tmp_path: Path, name: str, meant: str) -> None:
    (warning,) = load(tmp_path, f"{name}=source\n").warnings
    assert warning.startswith(f"{name} in .env is not a setting; did you mean {meant}")


def test_other_programs_variables_are_no_warning(tmp_path: Path) -> None:
    environment = {"TARGETS": "x", "HOME": "/", "PATH": "/bin", "GIT_SHA1": "x"}
    assert load(tmp_path, "DATABASE_URL=x\n", environment=environment).warnings == []


def test_unknown_variable_with_our_prefix_in_the_environment_is_a_warning(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, environment={"RUNTIME_API_URI": "https://example.com"}).warnings
    assert warning == "RUNTIME_API_URI in the environment is not a setting; did you mean RUNTIME_API_URL?"


def test_default_of_a_project_that_is_no_setting_is_refused(tmp_path: Path) -> None:
    error = refuse(tmp_path, defaults={"SOURCE_DIRECTORY": "server"})
    assert error.message == "tasks.py sets a default for SOURCE_DIRECTORY, which is not a setting"
    assert error.fix == "write SOURCE_DIR"


@pytest.mark.parametrize(("value", "port"), [(9000, 9000), ("9000", 9000), ("", 8000)])
def test_default_of_a_project_may_be_a_number(tmp_path: Path, value: Any, port: int) -> None:
    assert load(tmp_path, defaults={"SERVER_PORT": value}).settings.server_port == port


def test_default_of_a_project_may_be_false(tmp_path: Path) -> None:
    assert load(tmp_path, defaults={"CLEAN_OUTPUT": False}).settings.clean_output is False


@pytest.mark.parametrize("value", [["a", "b"], None, {"a": 1}])
def test_default_of_another_kind_is_refused(tmp_path: Path, value: Any) -> None:
    assert 'write CUSTOM_TAGS="…"' in refuse(tmp_path, defaults={"CUSTOM_TAGS": value}).fix


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("export A=1", "1"),
        ("  A = 1  ", "1"),
        ("A=a b", "a b"),
        ("A=x # comment", "x"),
        ("A=x#y", "x#y"),
        ("A='x # y'", "x # y"),
        ('A="x\\ty"', "x\ty"),
        ("A='x\\ty'", "x\\ty"),
        ('A="a\nb"', "a\nb"),
        ("A='it\\'s'", "it's"),
        ("# A=2\n\nA=1\r\n", "1"),
        ("A=2\nA=1", "1"),
        ("\ufeffA=1", "1"),
        ("A=\u00fc", "\u00fc"),
        ("B=1\nA=${B}2", "12"),
        ("A=${FROM_OUTSIDE}", "outside"),
        ('A="${FROM_OUTSIDE}"', "outside"),
        ("A='${FROM_OUTSIDE}'", "${FROM_OUTSIDE}"),
        ("A=${NOWHERE:-fallback}", "fallback"),
        ("A=$FROM_OUTSIDE", "$FROM_OUTSIDE"),
        ("A='$5{x}'", "$5{x}"),
    ],
)
def test_lines_of_an_env_file(tmp_path: Path, line: str, value: str) -> None:
    assert read(tmp_path, line, FROM_OUTSIDE="outside")["A"] == value


@pytest.mark.parametrize("text", ["A=", "A=''", 'A=""', "# nothing", "", "\n\n"])
def test_empty_variables_of_an_env_file_are_not_there(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"A=1\nnonsense\n", 2),
        (b"A=1\n\n\n=value\n", 4),
        (b"A='unclosed\nB=2\n", 1),
        (b"A=1\nB='x' y\n", 2),
        (b"A=1\nB=\xff\n", 2),
        (b"A=1\nB=\0\n", 2),
        (b"A: 1\n", 1),
        (b"A=1\n\nB=${NOWHERE}\n", 3),
    ],
)
def test_unusable_line_is_refused_by_its_number(tmp_path: Path, text: bytes, line: int) -> None:
    with pytest.raises(SettingError) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(f".env, line {line}: ")
    assert f"line {line}" in caught.value.fix


def test_refused_line_does_not_show_its_value(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        read(tmp_path, f"RUNTIME_API_KEY='{KEY}\n")
    assert KEY not in caught.value.message + caught.value.fix


def test_env_file_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("/dev/zero")
    with pytest.raises(SettingError, match="not a regular file"):
        read_env_file(tmp_path / ".env", {})


def test_env_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingError, match="cannot be read"):
        read_env_file(tmp_path / ".env", {})


@given(st.text(st.characters(exclude_characters="'\\\0", exclude_categories=["Cs"]), min_size=1))
def test_single_quotes_keep_any_text(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    found = read(tmp_path_factory.getbasetemp(), f"A='{value}'\n")
    assert found["A"] == value


def test_reading_settings_leaves_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    load(tmp_path, "SOME_NAME_OF_THIS_TEST=1\n")
    assert dict(os.environ) == before


def test_project_is_the_nearest_lock_file_within_the_checkout(tmp_path: Path) -> None:
    member = tmp_path / "repo" / "server" / "member"
    member.mkdir(parents=True)
    (tmp_path / "uv.lock").touch()
    (tmp_path / "repo" / ".git").mkdir()
    assert find_root(member) == tmp_path / "repo"
    (tmp_path / "repo" / "server" / "uv.lock").touch()
    assert find_root(member) == tmp_path / "repo" / "server"


def test_project_outside_git_is_the_nearest_project_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "pyproject.toml").touch()
    assert find_root(tmp_path / "a" / "b") == tmp_path / "a"


def test_with_a_dockerfile_the_target_is_any_of_its_stages_and_the_last_one_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "DOCKERFILE=docker/Dockerfile\n").settings.target == ""
    named = load(tmp_path, "DOCKERFILE=docker/Dockerfile\n", environment={"TARGET": "runtime"}).settings.target
    assert named == "runtime"
    assert (named.tag_suffix, named.is_binary, named.is_minimal) == ("-runtime", False, False)


def test_without_a_dockerfile_the_target_is_one_of_four(tmp_path: Path) -> None:
    assert load(tmp_path).settings.target == "binary"
    assert "binary-minimal" in refuse(tmp_path, environment={"TARGET": "runtime", "DOCKERFILE": ""}).message


@pytest.mark.parametrize("name", ["PYINSTALLER_SPEC", "SPLIT_EXECUTABLE"])
def test_what_became_a_build_argument_says_so_and_what_it_says_works(tmp_path: Path, name: str) -> None:
    error = refuse(tmp_path, environment={name: "true"})
    assert name in error.message
    fix = error.fix.removeprefix("set BUILD_ARGS=")
    assert load(tmp_path, environment={"BUILD_ARGS": fix}).settings.build_args.keys() == {name}


def test_variables_for_a_container_are_read_as_docker_does(tmp_path: Path) -> None:
    file = tmp_path / "server.env"
    file.write_text("# a comment\n\n  KEY=a=b \nQUOTED='x'\nEMPTY=\nKEY=c#d\n")
    assert read_variables(file) == {"KEY": "c#d", "QUOTED": "'x'", "EMPTY": ""}


@pytest.mark.parametrize("line", ["KEY", "=value", "A B=c", "export KEY=value"])
def test_a_line_that_is_no_variable_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "server.env"
    file.write_text(f"KEY=value\n{line}\n")
    with pytest.raises(SettingError, match="line 2: not NAME=value"):
        read_variables(file)


def test_variables_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        read_variables(tmp_path / "gone.env")
    (tmp_path / "latin.env").write_bytes(b"KEY=\xe9\n")
    with pytest.raises(SettingError, match="is not UTF-8 text"):
        read_variables(tmp_path / "latin.env")
