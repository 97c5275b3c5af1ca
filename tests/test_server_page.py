"""The server's page without a browser: who may see it, what its forms require; nothing from outside is live."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildkit.server.log_page import PAGE_LINES, Line, LogPosition, NewLines, read_new, read_part, render_line
from buildkit.server.render import render_page
from buildkit.treemap import render_treemap
from tests.pages import KEY, OWNER, PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIVE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "\x1b[31m<b>\x1b]8;;http://x\x07",
)
hostile = st.one_of(
    st.sampled_from(LIVE), st.text(max_size=60), st.text(alphabet="<>\"'&/\x1b[]0123456789;m\n\r{}%", max_size=60)
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """A server without builds."""
    with PageServer(tmp_path) as server:
        yield server


class _Tags(HTMLParser):
    """Collects elements, and attributes that a browser would run or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def read_tags(html: str) -> _Tags:
    parser = _Tags()
    parser.feed(html)
    parser.close()
    return parser


def check_inert(html: str, scripts: int = 1) -> None:
    """Check that the only script is ours, and that no attribute runs anything or leads elsewhere."""
    parser = read_tags(html)
    assert parser.tags.count("script") == scripts
    assert not {"img", "iframe", "object", "embed", "style", "base"} & set(parser.tags)
    assert not [name for name, _ in parser.attributes if name.startswith("on") or name == "style"]
    targets = [value for name, value in parser.attributes if name in {"href", "src", "action"}]
    assert not [value for value in targets if not re.match(r"/(?!/)|[#?]", value)]


@settings(deadline=None)
@given(hostile)
def test_a_log_line_is_spans_of_known_classes_and_text(line: str) -> None:
    html = render_line(line)
    parser = read_tags(html)
    assert set(parser.tags) <= {"span"}
    classes = {name for key, value in parser.attributes if key == "class" for name in value.split()}
    assert all(re.fullmatch(r"ansi-(bold|dim|italic|underline|[fb]g-\d+)", name) for name in classes)
    assert "\x1b" not in html


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("\x1b[1;31mred\x1b[0m plain", '<span class="ansi-bold ansi-fg-1">red</span> plain'),
        ("\x1b[38;5;31mx\x1b[mx", "xx"),
        ("\x1b[38;2;1;31;4mx", "x"),
        ("\x1b[2J\x1b[1Aup\r\n", "up"),
        ("\x1b[91;41mx\x1b[39my", '<span class="ansi-fg-9 ansi-bg-1">x</span><span class="ansi-bg-1">y</span>'),
        ("a\u202eb\x07", "a\\u202eb\\x07"),
    ],
)
def test_colours_become_classes_and_other_sequences_disappear(line: str, html: str) -> None:
    assert render_line(line) == html


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=hostile, line=hostile)
def test_names_and_logs_from_outside_are_never_markup(server: PageServer, name: str, line: str) -> None:
    build = server.claim(server.add_without_context(target_image=name, owner=name, base_image=name))
    server.write_log(build, [f"#1 [a 1/1] RUN {line}", f"#1 0.1 {line}", "#1 ERROR: {line}", line])
    server.server.store.finish(build, "FAILURE", error=line)
    for path in ("/", f"/builds/{build.id}", f"/builds/{build.id}/log", f"/builds/{build.id}/log?search=R"):
        status, html = server.get(path)
        assert status == 200
        check_inert(html)


@settings(deadline=None)
@given(path=hostile, name=hostile)
def test_paths_in_a_context_are_never_markup(path: str, name: str) -> None:
    treemap = render_treemap([(path, 1000), (f"{path}/{name}", 10), (f"{name}/{path}/x", 9), ("Dockerfile", 5)])
    check_inert(treemap, scripts=0)
    assert set(read_tags(treemap).tags) <= {"section", "p", "a", "b", "span", "svg", "rect", "text", "title"}


def test_without_a_session_every_page_asks_for_the_key_and_shows_nothing(server: PageServer) -> None:
    build = server.add("registry.example.com/secret:1")
    server.write_log(build, ["secret"])
    pages = [f"/builds/{build.id}{rest}" for rest in ("", "/log", "/log.txt", "/log.json", "/context")]
    for path in ("/", *pages, "/builds/none"):
        for cookie in ("", "runtime-build-session=forged"):
            status, html = server.get(path, cookie=cookie)
            assert status == 401
            assert 'name="key"' in html
            assert "secret" not in html


@pytest.mark.parametrize("key", ["wrong", "", "runtime-build-session"])
def test_a_wrong_key_gives_no_session(server: PageServer, key: str) -> None:
    answer = server.post("/login", {"key": key, "next": "/builds/1"}, cookie="")
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


def test_a_key_gives_a_session_and_leads_back(server: PageServer) -> None:
    answer = server.post("/login", {"key": server.key, "next": "/builds/1"}, cookie="")
    assert (answer.status, answer.headers["location"]) == (303, "/builds/1")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\nb"])
def test_login_leads_to_no_other_site(server: PageServer, path: str) -> None:
    answer = server.post("/login", {"key": server.key, "next": path}, cookie="")
    assert answer.headers["location"] == "/"


def test_a_form_without_the_session_and_its_token_changes_nothing(server: PageServer) -> None:
    build = server.add()
    other = server.read_token(cookie=server.log_in(KEY))
    attempts = [(None, ""), (None, "forged"), (None, other), ("", server.read_token())]
    for cookie, token in attempts:
        answer = server.post(f"/builds/{build.id}", {"action": "cancel", "token": token}, cookie=cookie)
        assert answer.status in {401, 403}
    assert server.post(f"/builds/{build.id}/cancel", {}).status == 401
    assert server.server.get(build.id).status == "QUEUED"


def test_a_form_with_its_token_cancels_and_builds_again(server: PageServer) -> None:
    build, token = server.add(), server.read_token()
    done = server.post(f"/builds/{build.id}", {"action": "cancel", "token": token})
    assert (done.status, done.headers["location"]) == (303, f"/builds/{build.id}")
    assert server.server.get(build.id).status == "CANCELLED"
    again = server.post(f"/builds/{build.id}", {"action": "retry", "token": token})
    new = server.server.get(again.headers["location"].rpartition("/")[2])
    assert (new.retry_of, new.status, new.owner) == (build.id, "QUEUED", OWNER)


def test_log_out_ends_the_session_in_the_browser(server: PageServer) -> None:
    answer = server.post("/logout", {"token": server.read_token()})
    assert answer.status == 303
    assert "max-age=0" in answer.headers["set-cookie"].lower()


def test_a_missing_build_is_a_page(server: PageServer) -> None:
    status, html = server.get("/builds/none")
    assert status == 404
    assert "there is no such build" in html


def test_a_form_that_is_too_large_is_refused(server: PageServer) -> None:
    assert server.post("/login", {"key": "x" * 10_000}, cookie="").status == 413


def test_builds_are_filtered_by_status_and_text_and_listed_in_pages(server: PageServer) -> None:
    for number in range(60):
        server.add_without_context(target_image=f"registry.example.com/app:{number}")
    server.server.cancel(server.add_without_context(target_image="registry.example.com/other:1").id)
    _, html = server.get("/")
    assert html.count("<tr>") == 51
    older = unescape(re.findall(r'href="(/\?[^"]+before=[^"]+)"', html)[0])
    _, html = server.get(older)
    assert html.count("<tr>") == 12
    _, html = server.get("/?status=CANCELLED")
    assert html.count("<tr>") == 2
    _, html = server.get("/?text=OTHER")
    assert html.count("<tr>") == 2
    _, html = server.get("/?text=nothing&status=made-up")
    assert "No build matches" in html


def test_a_page_of_a_long_log_is_its_last_thousand_lines_and_every_line_has_an_address(server: PageServer) -> None:
    build = server.add_without_context()
    server.write_log(build, (f"line {number}" for number in range(1, 100_001)))
    path = f"/builds/{build.id}/log"
    _, html = server.get(path)
    assert html.count("<li ") == PAGE_LINES
    assert "line 100000<" in html
    assert len(html) < 500_000
    _, html = server.get(f"{path}?from=50000")
    assert 'id="L50000"' in html
    assert "line 50000<" in html
    _, html = server.get(f"{path}?search=LINE%2099999")
    assert html.count("<li ") == 1
    _, text = server.get(f"{path}.txt")
    assert text.count("\n") == 100_000


def test_new_lines_continue_where_a_page_ended(server: PageServer) -> None:
    build, logs = server.add_without_context(), server.server.logs
    server.write_log(build, ["one", "two"])
    size = logs.size(build.id)
    assert read_part(logs, build.id, None, size).total == 2
    server.write_log(build, ["three"])
    assert read_part(logs, build.id, None, size).total == 2
    new = read_new(logs, build.id, LogPosition(size, 2), is_ended=False)
    assert new == NewLines([Line(3, "three")], logs.size(build.id), is_last=False)
    assert read_new(logs, build.id, LogPosition(new.offset, 3), is_ended=True) == NewLines([], new.offset, is_last=True)


def test_the_error_of_a_failed_build_comes_with_the_last_lines_of_its_step(server: PageServer) -> None:
    build = server.claim(server.add_without_context())
    output = [f"#5 0.{number} line {number}" for number in range(30)]
    server.write_log(build, ["#5 [app 2/3] RUN make", *output, "#5 ERROR: exit code: 2"])
    server.server.store.finish(build, "FAILURE", error="exit code: 2")
    _, html = server.get(f"/builds/{build.id}")
    failure = html[html.index('<section class="failure"') : html.index("</section>")]
    assert "RUN make" in failure
    assert "line 29<" in failure
    assert "line 3<" not in failure
    assert '<details id="step-1" class="step failed" open>' in html


def test_a_context_is_compared_with_the_last_one_of_the_same_image(server: PageServer) -> None:
    server.add("host:5000/app:1", {"app.py": "x" * 10, "old.py": "x"})
    server.add("host:5000/other:1", {"app.py": "x"})
    build = server.add("host:5000/app:2", {"app.py": "x" * 50, "new/<b>.py": "x" * 20})
    _, html = server.get(f"/builds/{build.id}/context")
    check_inert(html)
    changes = re.findall(r'class="change (\w+)">\w+</span> ([^<]+)<', html)
    assert changes == [("grown", "app.py"), ("added", "new/&lt;b&gt;.py"), ("removed", "old.py")]
    assert "Changes since" in html
    assert "FROM localhost/base:1" in html


def test_a_deleted_context_is_said_to_be_deleted(server: PageServer) -> None:
    status, html = server.get(f"/builds/{server.add_without_context().id}/context")
    assert status == 200
    assert "no longer stored" in html


def test_templates_show_control_characters() -> None:
    html = render_page("problem", owner=None, token="", title="a\u202eb", message="c\x1bd")
    assert "a\\u202eb" in html
    assert "c\\x1bd" in html
