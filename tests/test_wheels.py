"""The versions of Python that a lock file has wheels for."""

from __future__ import annotations

from buildkit.source.wheels import list_wheels

UV = """
wheels = [
    { url = "https://a.com/Some_Name-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", hash = "x" },
    { url = "https://a.com/some_name-1.0-cp313-cp313-macosx_11_0_arm64.whl", hash = "x" },
    { url = "https://a.com/stable-2.0.1-cp39-abi3-musllinux_1_2_x86_64.whl", hash = "x" },
    { url = "https://a.com/pure-1.0-py3-none-any.whl", hash = "x" },
    { url = "https://a.com/both-1.0-1-py2.py3-none-manylinux1_x86_64.whl", hash = "x" },
    { url = "https://a.com/windows-1.0-cp312-cp312-win_amd64.whl", hash = "x" },
    { url = "https://a.com/twice-1.0-cp310-cp310-manylinux1_x86_64.whl", hash = "x" },
    { url = "https://a.com/twice-2.0-cp313-cp313-manylinux1_x86_64.whl", hash = "x" },
    { url = "https://a.com/odd.whl", hash = "x" },
]
sdist = { url = "https://a.com/none-1.0.tar.gz", hash = "x" }
"""


def test_the_tags_of_wheels_say_which_versions_they_are_for() -> None:
    wheels = list_wheels(UV)
    assert wheels["some-name"] == {12}
    assert {8, 9, 12, 20} & wheels["stable"] == {9, 12, 20}
    assert {6, 30} <= wheels["pure"]
    assert {6, 30} <= wheels["both"]
    assert wheels["windows"] == frozenset()
    assert wheels["twice"] == {10, 13}
    assert wheels.keys() == {"some-name", "stable", "pure", "both", "windows", "twice"}


def test_the_names_of_files_are_found_however_they_are_written() -> None:
    for line in ('{file = "a-1-py3-none-any.whl"}', "name = 'a-1-py3-none-any.whl'", "url = x/a-1-py3-none-any.whl#y"):
        assert list_wheels(line).keys() == {"a"}
