"""Text to value, for each kind of setting: what is taken, and what is refused with name, value and fix."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit import values
from buildkit.build_args import parse_build_args
from buildkit.command import StartCommand, parse_command
from buildkit.errors import SettingError
from buildkit.models import TARGETS
from buildkit.reference import parse_repository, parse_tags, parse_target_image
from buildkit.secret import parse_key
from buildkit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

SHA = "0123456789" * 4
KEY = "s3cret-Key"
NO_URLS = ["example.com", "//h", "ftp://h", "https://", "https://.", "https://h:0", "https://h:x", "https://[::1"]
NO_URLS += ["https://h?x", "https://h#", "https://h h", "https://h\\x", "https://h\n", "https://\u00e9.example"]


def refusal(parse: Callable[[str, str], Any], value: str, name: str = "NAME") -> SettingError:
    with pytest.raises(SettingError) as caught:
        parse(value, name)
    assert caught.value.message.startswith(name)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("value", ["true", "TRUE", "yes", "On", "1"])
def test_words_for_true(value: str) -> None:
    assert values.parse_flag(value, "NAME") is True


@pytest.mark.parametrize("value", ["false", "False", "no", "OFF", "0"])
def test_words_for_false(value: str) -> None:
    assert values.parse_flag(value, "NAME") is False


@pytest.mark.parametrize("value", ["y", "2", "truee", "-1", " true", "\u0661"])
def test_other_words_are_neither(value: str) -> None:
    assert repr(value) in refusal(values.parse_flag, value).message


@pytest.mark.parametrize("value", ["0", "65536", "1.5", "-1", "1e3", "\u0661", " 1", "1\n", "0x10", "9" * 5000])
def test_whole_number_out_of_its_range_names_the_range(value: str) -> None:
    refused = refusal(values.parse_integer(1, 65535), value)
    assert "from 1 to 65535" in refused.message
    assert refused.fix == "set NAME to a whole number from 1 to 65535"


@pytest.mark.parametrize("value", ["0.5", "31", "nan", "inf", "1_0", "", "1.", ".5"])
def test_number_out_of_its_range_names_the_range(value: str) -> None:
    refused = refusal(values.parse_number(1, 30), value)
    assert "from 1 to 30" in refused.message
    assert refused.fix == "set NAME to a number from 1 to 30"


def test_numbers_at_the_edges_are_taken() -> None:
    assert values.parse_integer(1, 65535)("65535", "NAME") == 65535
    assert values.parse_number(1, 30)("1.25", "NAME") == 1.25


@pytest.mark.parametrize(
    ("value", "meant"), [("sauce", "source"), ("binary_minimal", "binary-minimal"), ("Binary", "binary")]
)
def test_misspelt_choice_is_answered_with_the_one_that_is_meant(value: str, meant: str) -> None:
    assert refusal(values.parse_one_of(TARGETS), value, "TARGET").fix == f"set TARGET={meant}"


def test_choice_unlike_any_is_answered_with_all() -> None:
    assert "source-minimal" in refusal(values.parse_one_of(TARGETS), "xyz").fix


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("dev,staging", ("dev", "staging")),
        (" dev , staging ,dev", ("dev", "staging")),
        (",", ("python",)),
        ("", ("python",)),
        (",,a", ("a",)),
    ],
)
def test_tags_come_in_order_and_once(value: str, tags: tuple[str, ...]) -> None:
    assert parse_tags(value, "CUSTOM_TAGS") == tags


@pytest.mark.parametrize("value", ["a,b/c", "a,-b", "a,b\n", "a, b c"])
def test_bad_tag_is_named_by_its_place_in_the_list(value: str) -> None:
    assert "tag 2" in refusal(parse_tags, value, "CUSTOM_TAGS").message


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ("A=1,B=x=y", {"A": "1", "B": "x=y"}),
        ("A=a,b\nB=2\n", {"A": "a,b", "B": "2"}),
        (" A=1 ,", {"A": "1 "}),
        ("A=", {"A": ""}),
        ("", {}),
    ],
)
def test_build_arguments_are_separated_by_commas_or_by_lines(value: str, pairs: dict[str, str]) -> None:
    assert parse_build_args(value, "BUILD_ARGS") == pairs


@pytest.mark.parametrize("value", ["A", "A=1,B", "A=\x0bRUN evil"])
def test_build_argument_that_is_no_pair_or_no_line_is_refused(value: str) -> None:
    refusal(parse_build_args, value, "BUILD_ARGS")


@pytest.mark.parametrize("value", ["x.tar.gz", "A_1.0+b-2.tgz"])
def test_archive_names(value: str) -> None:
    assert values.parse_archive_name(value, "OUTPUT_NAME") == value


@pytest.mark.parametrize(
    "value", ["../x.tar.gz", "a/b.tar.gz", ".x.tar.gz", "-x.tar.gz", "x.zip", "x.tar.gz\n", "x" * 201 + ".tgz"]
)
def test_archive_name_that_leaves_the_output_directory_or_hides_in_it_is_refused(value: str) -> None:
    refusal(values.parse_archive_name, value, "OUTPUT_NAME")


@pytest.mark.parametrize("value", [SHA, SHA + "0" * 24])
def test_full_commits_are_taken(value: str) -> None:
    assert values.parse_sha(value, "GIT_SHA") == value


@pytest.mark.parametrize("value", ["main", SHA[:7], SHA + "0", "A" * 40, SHA + "\n"])
def test_anything_but_a_full_commit_is_refused(value: str) -> None:
    assert "git rev-parse HEAD" in refusal(values.parse_sha, value, "GIT_SHA").fix


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com/", "https://api.example.com"),
        ("http://127.0.0.1:8080/some/path//", "http://127.0.0.1:8080/some/path"),
        ("https://[::1]:1", "https://[::1]:1"),
    ],
)
def test_base_urls_lose_the_slash_at_their_end(value: str, url: str) -> None:
    assert values.parse_url(value, "RUNTIME_API_URL") == url


@pytest.mark.parametrize("value", NO_URLS)
def test_what_is_no_base_url_is_refused(value: str) -> None:
    refusal(values.parse_url, value, "RUNTIME_API_URL")


@pytest.mark.parametrize(
    "value", [f"https://user:{KEY}@h", f"https://{KEY}@h/x", f"https://u:p/{KEY}@h", f"https://u:{KEY}\n@h"]
)
def test_password_in_a_url_is_refused_and_not_shown(value: str) -> None:
    error = refusal(values.parse_url, value, "RUNTIME_API_URL")
    assert KEY not in error.message + error.fix


def test_key_is_taken_and_never_shows_itself() -> None:
    key = parse_key(KEY, "RUNTIME_API_KEY")
    assert key.reveal() == KEY
    assert KEY not in f"{key} {key!r} {[key]}"


@pytest.mark.parametrize("value", [f"{KEY}\n", f" {KEY}", f"{KEY}\r\nX: y", f"{KEY}\x7f", f"{KEY}\u20ac", f"{KEY}\0"])
def test_key_that_no_header_can_carry_is_refused_unseen(value: str) -> None:
    error = refusal(parse_key, value, "RUNTIME_API_KEY")
    assert KEY not in error.message + error.fix


@pytest.mark.parametrize(
    ("value", "chosen"), [("none", set()), ("docker, vscode", {"docker", "vscode"}), ("desktop", {"desktop"})]
)
def test_features(value: str, chosen: set[str]) -> None:
    assert values.parse_features(value, "FEATURES") == chosen


def test_unknown_feature_is_answered_with_the_one_that_is_meant() -> None:
    assert refusal(values.parse_features, "docker,desktp", "FEATURES").fix == "set FEATURES=desktop"


@pytest.mark.parametrize("item", dataclasses.fields(Settings), ids=lambda item: item.name)
def test_every_default_is_a_value_of_its_setting(item: dataclasses.Field[Any]) -> None:
    item.metadata["parse"](item.metadata["default"], item.name.upper())


@pytest.mark.parametrize("item", dataclasses.fields(Settings), ids=lambda item: item.name)
@given(value=st.text(max_size=60))
def test_any_text_is_taken_or_refused_in_one_line_with_a_fix(item: dataclasses.Field[Any], value: str) -> None:
    try:
        item.metadata["parse"](value, item.name.upper())
    except SettingError as refused:
        error = refused
    else:
        return
    assert item.name.upper() in error.message
    assert error.fix
    assert len(f"{error.message}{error.fix}".splitlines()) == 1


@pytest.mark.parametrize("value", ["curl,vim", "curl vim", "curl, vim\n", " curl\tvim,"])
def test_packages_are_separated_by_commas_spaces_or_lines(value: str) -> None:
    assert values.parse_packages(value, "EXTRA_PACKAGES") == ("curl", "vim")


@pytest.mark.parametrize("value", ["curl; rm -rf /", "$(x)", "-y", "a|b"])
def test_package_that_a_shell_would_obey_is_refused(value: str) -> None:
    refusal(values.parse_packages, value, "EXTRA_PACKAGES")


@pytest.mark.parametrize("value", ["agent-server:1", f"a@sha256:{'0' * 64}", "A", ""])
def test_image_name_is_a_repository_and_nothing_more(value: str) -> None:
    refusal(parse_repository, value, "IMAGE_NAME")


@pytest.mark.parametrize("value", ["TARGET=x", "API_KEY=x", "1A=x", "A=https://u:p@h/x", "=x"])
def test_build_argument_that_contradicts_a_setting_or_looks_secret_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match="BUILD_ARGS"):
        parse_build_args(value, "BUILD_ARGS")


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (values.parse_module, ["a", "a.b_c"], ["a-b", "a..b", "a b", "1a", ""]),
        (values.parse_program_name, ["a", "a.b-c_1"], ["a/b", ".a", "-a", "a b", ""]),
    ],
)
def test_names_with_a_shape(parse: Callable[[str, str], str], good: list[str], bad: list[str]) -> None:
    assert [parse(value, "NAME") for value in good] == good
    for value in bad:
        refusal(parse, value)


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("Replica.example.com, b:8443", ("replica.example.com", "b:8443")),
        ("[::1]:80,[FE80::1]", ("::1:80", "fe80::1")),
        ("", ()),
    ],
)
def test_hosts_are_as_they_stand_in_a_parsed_url(value: str, hosts: tuple[str, ...]) -> None:
    assert values.parse_hosts(value, "ALLOWED_HOSTS") == hosts


@pytest.mark.parametrize("value", ["https://a", "a/b", "*.a", "a:x", "a@b", "a b"])
def test_what_is_no_host_is_refused(value: str) -> None:
    assert "without https://" in refusal(values.parse_hosts, value, "ALLOWED_HOSTS").fix


def test_target_image_has_no_digest() -> None:
    assert str(parse_target_image("r.io/a:1", "TARGET_IMAGE")) == "r.io/a:1"
    assert "digest" in refusal(parse_target_image, f"a@sha256:{'0' * 64}", "TARGET_IMAGE").message


def test_optional_value_is_none_if_it_is_empty() -> None:
    parse = values.optional(values.parse_sha)
    assert parse("", "GIT_SHA") is None
    assert parse(SHA, "GIT_SHA") == SHA


@pytest.mark.parametrize(
    ("value", "program", "arguments"),
    [
        ("uvicorn app.main:app --port 8000", "uvicorn", ("app.main:app", "--port", "8000")),
        ("serve", "serve", ()),
        ("serve --name 'two words' \"\"", "serve", ("--name", "two words", "")),
        ("python3 -m acme", "python", ("-m", "acme")),
        ("/agent-server/.venv/bin/gunicorn app:app", "gunicorn", ("app:app",)),
        ("gunicorn 'app:make(debug=False)' -b 0.0.0.0:80", "gunicorn", ("app:make(debug=False)", "-b", "0.0.0.0:80")),
    ],
)
def test_a_command_is_split_as_a_shell_would(value: str, program: str, arguments: tuple[str, ...]) -> None:
    assert parse_command(value, "NAME") == StartCommand(program, arguments)


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("cd /agent-server && uvicorn app:app", "/agent-server"),
        ("cd /workspace/project/ && uvicorn app:app", "/workspace/project"),
        ("cd src/web && uvicorn app:app", "/agent-server/src/web"),
        ("cd . && uvicorn app:app", "/agent-server"),
    ],
)
def test_a_command_may_begin_with_the_folder_that_it_starts_in(value: str, folder: str) -> None:
    command = parse_command(value, "NAME")
    assert command == StartCommand("uvicorn", ("app:app",), folder)
    assert parse_command(str(command), "NAME") == command


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("serve --port $PORT", "$PORT"),
        ("serve --port ${PORT:-8000}", "PORT"),
        ("migrate && serve", "&&"),
        ("cd /srv; serve", "program"),
        ("cd $HOME && serve", "$HOME"),
        ("cd 'two words' && serve", "two words"),
        ("cd /srv && cd app && serve", "&&"),
        ("cd /srv &&", "program"),
        ("serve | tee log", "|"),
        ("serve > log", ">"),
        ("serve 'open", "quotes"),
        ("./serve.sh", "program"),
        ("/usr/bin/serve", "program"),
        ("-m acme", "program"),
        ("  ", "program"),
        ("''", "program"),
        ("serve\nrm", "control character"),
    ],
)
def test_a_command_that_needs_a_shell_or_starts_no_program_is_refused(value: str, said: str) -> None:
    error = refusal(parse_command, value)
    assert said in error.message + error.fix


@pytest.mark.parametrize("value", ["/", "/health", "/api/v1/ping?full=1", "/a-b_c.d~e%20f"])
def test_a_path_of_a_url_is_taken(value: str) -> None:
    assert values.parse_url_path(value, "NAME") == value


@pytest.mark.parametrize(
    "value", ["health", "https://host/x", "/two words", "/a\n", '/a"b', "/a'b", "/a$b", "/a`b", "/a#b"]
)
def test_what_is_no_path_of_a_url_is_refused(value: str) -> None:
    refusal(values.parse_url_path, value)


@pytest.mark.parametrize("value", ["", "runtime", "stage-2.a_b"])
def test_a_stage_is_taken(value: str) -> None:
    assert values.parse_stage(value, "NAME") == value


@pytest.mark.parametrize("value", ["1st", "a b", "a\nRUN evil", "a/b", "-a"])
def test_what_no_stage_can_be_called_is_refused(value: str) -> None:
    refusal(values.parse_stage, value)
