"""Other people's text on its way to a terminal or a file, and files that are whole or not there."""

import stat
from uuid import UUID

import pytest

from subpop.runtime import writing
from subpop.runtime.writing import write_atomically
from subpop.types.printable import printable, said_by


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain text: größer · 字 ☃\n\ttwo lines", "plain text: größer · 字 ☃\n\ttwo lines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(B\x1bcreset", "reset"),
        ("\x9b2Jcleared", "cleared"),
        ("lone \ud800 and \udc80", "lone \\ud800 and \\udc80"),
        ("a\x00b\x07c\x08d\x7fe\x85f", "a\\x00b\\x07c\\x08d\\x7fe\\x85f"),
        ("\u202egnp.exe \u2066x\u2069 \u200fy \ufeffz", "\\u202egnp.exe \\u2066x\\u2069 \\u200fy \\ufeffz"),
        ("::error file=a.py::broken", ": :error file=a.py::broken"),
        ("first\n  ::set-output name=x::y", "first\n  : :set-output name=x::y"),
        ("progress\r::warning::z", "progress\n: :warning::z"),
        (":\x1b[0m:error::joined", ": :error::joined"),
        ("said ##[error]x and ##vso[task.complete]", "said # #[error]x and # #vso[task.complete]"),
        ("tests/test_a.py::test_b", "tests/test_a.py::test_b"),
        ("## a heading", "## a heading"),
    ],
)
def test_what_a_terminal_or_ci_would_obey_is_taken_out(text, safe):
    assert printable(text) == safe
    assert printable(safe) == safe
    safe.encode("utf-8")


def test_an_escape_sequence_without_an_end_is_written_out():
    assert printable("\x1b]0;never ends") == "\\x1b]0;never ends"
    assert printable("\x1b[") == "\\x1b["


def test_an_exception_that_cannot_be_printed_is_still_told():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert said_by(Broken()) == "(its message cannot be read)"
    assert said_by(KeyError("a\x1b[1mb")) == "'a\\x1b[1mb'"
    assert said_by(ValueError("a\x1b[1mb")) == "ab"


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    write_atomically(path, "größer\r\n\ud800")
    assert path.read_bytes() == "größer\r\n\\ud800".encode()
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    monkeypatch.setattr(writing, "uuid4", lambda: UUID(int=1))
    (tmp_path / f".page.md.{UUID(int=1).hex}.unfinished").mkdir()  # this write cannot succeed
    with pytest.raises(OSError, match=r"page\.md"):
        write_atomically(path, b"new")
    assert path.read_bytes().startswith("größer".encode())
