"""The committed count of lines of code."""

from __future__ import annotations

from pathlib import Path

import count_lines
import pytest

MODULE = '''"""A docstring
of two lines."""

# a comment
import os  # code with a comment

LIMIT = 3
"""What the constant means."""


def f(
    x: int,
) -> str:
    """One line."""
    text = """a string
that is a value"""
    return text * x
'''


def test_docstrings_comments_and_blank_lines_do_not_count() -> None:
    assert count_lines.code_lines(MODULE) == len(("import", "LIMIT", "def", "x", ")", "text", "that", "return"))


def test_the_command_sums_by_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "package" / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "package" / "top.py").write_text("a = 1\n")
    (tmp_path / "package" / "inner" / "one.py").write_text("a = 1\nb = 2\n")
    (tmp_path / "package" / "inner" / "deep" / "two.py").write_text('"""Prose."""\nc = 3\n')
    count_lines.main([str(tmp_path / "package"), "--by-folder"])
    assert capsys.readouterr().out.split() == ["3", "inner", "1", "package", "4", "total"]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        count_lines.main([str(tmp_path / "absent")])
    assert "give one that holds Python modules" in capsys.readouterr().err
