"""Rows 1 to 10: settings. All are exit 2, with nothing touched and nothing sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ledger import LEDGER
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from tests.commands import Command, Ended
    from tests.runtime_api import RuntimeApiServer

pytestmark = pytest.mark.fault

CONTROLS = ["a\nRUN evil", "a b", "a\tb", "a\x1b[31m", "a$b", "a\\b", "a\r", "a\n", "a\x7f", "a\u2028b", "\u200ba"]


def refuse(command: Command, *texts: str, task: str = "all", **settings: str) -> Ended:
    """Run with bad settings; nothing may be there afterwards that was not before."""
    LEDGER.refused[1] += 1
    run = command.run(task, **settings).expect(2, *texts)
    assert not command.output.exists()
    assert not command.output.with_name(".runtime-build.lock").exists()
    LEDGER.refused[0] += 1
    return run


def accept(command: Command, task: str = "dockerfile", **settings: str) -> Ended:
    LEDGER.accepted[1] += 1
    command.run("version", **settings).expect(0)
    run = command.run(task, **settings).expect(0)
    LEDGER.accepted[0] += 1
    return run


@pytest.mark.parametrize("task", ["upload", "wait", "logs"])
def test_1_all_missing_settings_are_named_at_once(command: Command, task: str) -> None:
    refuse(command, "RUNTIME_API_URL", "RUNTIME_API_KEY", task=task)


@pytest.mark.parametrize(
    ("given", "missing"), [("RUNTIME_API_URL", "RUNTIME_API_KEY"), ("RUNTIME_API_KEY", "RUNTIME_API_URL")]
)
def test_1_url_and_key_go_together_before_any_work(command: Command, given: str, missing: str) -> None:
    value = {"RUNTIME_API_URL": "https://example.com", "RUNTIME_API_KEY": KEY}[given]
    refuse(command, f"{missing} is not", **{given: value})


def test_1_several_bad_settings_are_named_at_once(command: Command) -> None:
    run = refuse(command, "TARGET", "CUSTOM_TAGS", "BASE_IMAGE", TARGET="x", CUSTOM_TAGS="-", BASE_IMAGE="A B")
    assert len(run.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"TARGET=source\nnonsense\n", 2),
        (b"TARGET=source\n\n=value\n", 3),
        (b"TARGET=source\nB='unclosed\nC=2\n", 2),
        (b"A=1\nB='unclosed\nTARGET=source\n", 2),
        (b"TARGET=source\nB=\xff\xfe\n", 2),
        (b"TARGET=source\nB=\0\n", 2),
        ("TARGET=source".encode("utf-16"), 1),
        (b'A="\\ud800"\nTARGET\n', 2),
        (b"RUNTIME_API_ULR https://example.com\n", 1),
        (b"FORCE=true\nnonsense\n", 2),
    ],
)
def test_2_unusable_env_file_names_its_line(command: Command, content: bytes, line: int) -> None:
    (command.checkout / ".env").write_bytes(content)
    refuse(command, f"line {line}")


@pytest.mark.parametrize(
    "content",
    [
        b"A=1\n\n=value\n",
        b"A=1\nB='unclosed\nC=2\n",
        b"A=1\nB=\xff\xfe\n",
        b"A=1\nB=\0\n",
        b"URL=postgresql://${NOT_SET}@localhost\n",
        b"MY_TARGET=x\nnonsense\n",
    ],
)
def test_2_env_file_of_an_application_stops_nothing(command: Command, content: bytes) -> None:
    (command.checkout / ".env").write_bytes(content)
    run = accept(command, "version")
    assert ".env, line " in run.err
    assert "none of our settings" in run.err


def test_2_env_file_that_cannot_be_read_is_no_default(command: Command) -> None:
    (command.checkout / ".env").mkdir()
    refuse(command, ".env")


def test_2_env_file_of_many_megabytes_is_refused_soon(command: Command) -> None:
    (command.checkout / ".env").write_bytes(b"A=" + b"x" * 30_000_000)
    refuse(command, ".env")


def test_2_value_in_env_file_is_never_shown_when_its_line_is_bad(command: Command) -> None:
    (command.checkout / ".env").write_text(f"RUNTIME_API_URL=https://example.com\nRUNTIME_API_KEY='{KEY}\n")
    refuse(command, "line 2")


def test_2_env_file_with_byte_order_mark_and_crlf_is_read(command: Command) -> None:
    (command.checkout / ".env").write_bytes(b"\xef\xbb\xbfTARGET=source-minimal\r\nexport CUSTOM_TAGS=dev\r\n")
    run = accept(command, "version", TARGET="")
    assert run.out.endswith("-dev\n")


def test_2_dollar_in_a_key_of_the_env_file_is_kept(command: Command, server: RuntimeApiServer) -> None:
    command.secret = "p${HOME}q$USER-and-more"
    (command.checkout / ".env").write_text(f"RUNTIME_API_URL={server.url}\nRUNTIME_API_KEY='{command.secret}'\n")
    command.run("all").expect(0)
    assert {request.headers["x-api-key"] for request in server.requests} == {command.secret}


@pytest.mark.parametrize("name", ["BASE_IMAGE", "TARGET", "CUSTOM_TAGS", "OUTPUT_DIR", "OUTPUT_NAME", "SERVER_PORT"])
def test_3_empty_variable_counts_as_unset(command: Command, name: str) -> None:
    (command.checkout / ".env").write_text(f"{name}=\n")
    command.environment["TARGET"] = ""
    command.run("version", **{name: ""}).expect(0)
    command.run("dockerfile", **{name: ""}).expect(0)
    assert command.read_state("dockerfile")["base_image"].startswith("nikolaik/")


def test_3_empty_variable_lets_the_env_file_speak(command: Command) -> None:
    (command.checkout / ".env").write_text("CUSTOM_TAGS=staging\n")
    assert command.run("version", CUSTOM_TAGS="").out.endswith("-staging\n")


@pytest.mark.parametrize("value", CONTROLS)
def test_4_base_image_that_could_add_a_line_is_refused(command: Command, value: str) -> None:
    refuse(command, "BASE_IMAGE", BASE_IMAGE=value)


def test_4_escaped_newline_in_the_env_file_is_refused(command: Command) -> None:
    (command.checkout / ".env").write_text('BASE_IMAGE="debian\\nRUN evil"\n')
    refuse(command, "BASE_IMAGE", "\\n")


@pytest.mark.parametrize(
    "name", ["SERVER_MODULE", "SERVER_NAME", "EXTRA_PACKAGES", "BUILD_ARGS", "IMAGE_NAME", "TARGET_IMAGE"]
)
def test_4_no_other_value_can_add_a_line(command: Command, name: str) -> None:
    value = "A=b\x1bRUN evil" if name == "BUILD_ARGS" else "a\x1bRUN evil"
    refuse(command, name, **{name: value})


@pytest.mark.parametrize(
    "value", ["ubuntu", "debian:12", "ghcr.io/a/b:1@sha256:" + "0" * 64, "localhost:5000/x_y__z--a"]
)
def test_4_real_references_are_accepted(command: Command, value: str) -> None:
    accept(command, BASE_IMAGE=value)


@pytest.mark.parametrize("tag", ["x" * 129, "a/b", ".a", "-a", "1\u0661", "a\n", "a b", "a:b", "\u00e4", "a\x1b"])
@pytest.mark.parametrize("position", [1, 3])
def test_5_bad_tag_is_named_by_its_position(command: Command, tag: str, position: int) -> None:
    refuse(command, f"tag {position}", CUSTOM_TAGS=",".join(["ok"] * (position - 1) + [tag]))


@pytest.mark.parametrize("tags", ["x" * 128, "_", "a.b-c_D9", "one, two ,one"])
def test_5_good_tags_are_accepted(command: Command, tags: str) -> None:
    accept(command, "version", CUSTOM_TAGS=tags)


@pytest.mark.parametrize("name", ["BASE_IMAGE", "IMAGE_NAME", "TARGET_IMAGE"])
@pytest.mark.parametrize(
    "value", ["a" * 256, "Upper/case", "0" * 64, "a//b", "a/", "-a", "a..b", "a@sha256:short", "\u0430"]
)
def test_6_bad_repository_is_refused(command: Command, name: str, value: str) -> None:
    refuse(command, name, **{name: value})


def test_7_undefined_template_value_is_named(command: Command) -> None:
    (command.world / "templates").mkdir()
    (command.world / "templates" / "Dockerfile.j2").write_text("FROM {{ base_image }}\nRUN {{ nowhere.at_all }}\n")
    command.run("version").expect(0)
    run = command.run("dockerfile", TEMPLATE_DIR=str(command.world / "templates")).expect(2, "nowhere", "line 2")
    assert not (command.output / "Dockerfile").exists()
    assert "TEMPLATE_DIR" in run.err


@pytest.mark.parametrize(
    "content", ["{% if %}", "{{ 1/0 }}", "{{ members.x.y }}", "{% include 'no' %}", "{{ '\\ud800' }}"]
)
def test_7_template_that_is_wrong_is_exit_2(command: Command, content: str) -> None:
    (command.world / "templates").mkdir()
    (command.world / "templates" / "Dockerfile.j2").write_text(content)
    command.run("version").expect(0)
    command.run("dockerfile", TEMPLATE_DIR="../templates").expect(2, "template")


def test_7_missing_template_folder_is_exit_2(command: Command) -> None:
    command.run("version").expect(0)
    command.run("dockerfile", TEMPLATE_DIR="nowhere").expect(2, "TEMPLATE_DIR", "nowhere")


BAD_URLS = [
    "example.com",
    "//example.com",
    "https://",
    "https:///path",
    "ftp://example.com",
    "file:///etc/passwd",
    "https://example.com?x=1",
    "https://example.com#x",
    "https://exam ple.com",
    "https://example.com:0",
    "https://example.com:99999",
    "https://example.com:x",
    "https://[::1",
    "https://example.com\\@evil.example",
    "https://ex\u00e4mple.com",
    "https://example.com/\n",
    "http://127.0.0.1.evil.example",
    "https://.",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_8_what_is_no_plain_url_is_refused(command: Command, url: str) -> None:
    refuse(command, "RUNTIME_API_URL", RUNTIME_API_URL=url, RUNTIME_API_KEY=KEY)


@pytest.mark.parametrize(
    "url", [f"https://user:{KEY}@example.com", "https://user@example.com", "https://:pw-of-mine@h/x"]
)
def test_8_user_and_password_are_refused_and_masked(command: Command, url: str) -> None:
    run = refuse(command, "RUNTIME_API_URL", "***@", RUNTIME_API_URL=url, RUNTIME_API_KEY="another-key-of-some-length")
    assert "pw-of-mine" not in run.err


@pytest.mark.parametrize(
    "url", [f"https://example.com/?key={KEY}", f"https://u:p/{KEY}@example.com", f"https://example.com:{KEY}"]
)
def test_8_key_in_a_refused_url_is_not_shown(command: Command, url: str) -> None:
    refuse(command, "RUNTIME_API_URL", RUNTIME_API_URL=url, RUNTIME_API_KEY=KEY)


@pytest.mark.parametrize(
    "url", ["http://example.com", "http://10.0.0.1:8000", "http://127.0.0.1.nip.example", "http://localhost.example"]
)
def test_9_plain_http_beyond_this_machine_is_refused(command: Command, url: str) -> None:
    refuse(command, "ALLOW_HTTP=true", RUNTIME_API_URL=url, RUNTIME_API_KEY=KEY)


def test_9_plain_http_is_taken_where_it_is_allowed(command: Command) -> None:
    accept(command, "version", RUNTIME_API_URL="http://example.com", RUNTIME_API_KEY=KEY, ALLOW_HTTP="true")


NO_HEADER = ["\r\n", "\n", "\r", "\x01", "\x7f", "\u20ac", "\u0100", "\x80"]


@pytest.mark.parametrize("tail", [*NO_HEADER, *(f"{text}x" for text in NO_HEADER), " "])
def test_10_key_that_no_header_can_carry_is_refused_unseen(command: Command, tail: str) -> None:
    refuse(command, "RUNTIME_API_KEY", RUNTIME_API_URL="https://example.com", RUNTIME_API_KEY=f"{KEY}{tail}")


def test_10_key_in_a_bad_flag_of_json_output_is_unseen(command: Command) -> None:
    run = command.run(
        "all", "--json", RUNTIME_API_URL="https://example.com", RUNTIME_API_KEY=f"{KEY}\nX-Evil: 1"
    ).expect(2)
    assert '"exit_code": 2' in run.out
