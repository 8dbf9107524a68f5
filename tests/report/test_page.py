"""index.html without a browser: escaping, size, what it contains, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_reports import cell_of, report_of, run_of_everything

import subpop.report
from subpop.report import RunInfo, check_report_directory, write_report, write_unfinished
from subpop.report.leaderboard import leaderboards
from subpop.report.page import web_page
from subpop.report.sentences import answers
from subpop.report.verdict import Standing
from subpop.types import BadInput, CellReport

RUN = RunInfo(tier="embedded", command="python -m pytest benchmarks/")
OWN = Path(subpop.report.__file__).parent
HOSTILE = "<script>alert('x')</script> \"quoted\" & </td> </script>"


class Reader(HTMLParser):
    """Rows of the tables as texts, by the id of the table, scripts by their type, and the tags that occur."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.rows, self.scripts, self.tags, self._script, self._in_cell = {}, [], {}, [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag == "script":
            self._script = dict(attributes).get("type", "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._in_cell:
            self.rows[-1][-1] += data


def rows_of(text, table):
    """The rows of a table by heading, by defense."""
    heading, *rows = Reader(text).tables[table]
    return {row[0]: dict(zip(heading, row, strict=True)) for row in rows}


def test_a_row_has_the_numbers_of_its_cell():
    reports = [report_of(cell_of(defense=defense)) for defense in ("none", "trim")]
    row = rows_of(web_page(reports, RUN), "all")["trim"]
    assert list(row).index("settings") < list(row).index("knowledge"), "rows that differ in settings only looked the same"
    result = reports[1].result
    assert row["damage in %"] == f"{100 * result['target_damage_worst_5']:.1f} ± {3 / 5**0.5:.1f}"
    assert row["clean accuracy given up in %"] == "1.2"
    assert row["recall in %"] == "18.0"
    assert row["knowledge"] == "n_poison"
    assert row["attack"] == "label_flip"


def test_the_leaderboard_has_the_rows_of_its_module():
    reports = [report_of(cell_of(defense=d, dataset=s)) for d in ("none", "sever", "trim") for s in ("digits", "mixture")]
    (board,) = leaderboards(reports)
    text = web_page(reports, RUN)
    assert all(f"<p>{sentence}</p>" in text for sentence in answers(board))
    interrupted = web_page(reports, replace(RUN, standing=Standing(9, 2, stopped="interrupt")))
    assert all(f"<p>In 6 of 9 cells measured so far: {sentence}</p>" in interrupted for sentence in answers(board))
    rows = rows_of(text, "leaderboard")
    assert list(rows) == ["sever", "trim", "none"]
    assert [rows[entry.defense]["rank"] for entry in board.entries] == ["1", "2"]
    for entry in (*board.entries, *board.controls):
        row = rows[entry.defense]
        assert row["damage in %"] == f"{100 * entry.damage.value:.1f}"
        assert row["digits in %"] == f"{100 * entry.by_dataset['digits']:.1f}"
        assert row["role"] == ("control" if entry.defense == "none" else "defense")
    assert rows["sever"]["knows"] == "count"
    assert rows["sever"]["recall in %"] == "35.0"
    assert "certified damage in %" not in rows["trim"]  # a column without any number is left out


def test_a_cell_that_failed_says_so():
    broken = CellReport(cell_of(defense="hangs"), None, status="error", reason="no answer")
    assert rows_of(web_page([report_of(cell_of(defense="none")), broken], RUN), "all")["hangs"]["damage in %"] == "error"


def test_no_text_from_data_becomes_markup():
    reports = [report_of(cell_of(defense=name)) for name in ("none", HOSTILE)]
    page = Reader(web_page(reports, RunInfo(tier=HOSTILE, command=HOSTILE)))
    plain = Reader(web_page([report_of(cell_of(defense=name)) for name in ("none", "plain")], RUN))
    assert page.tags == plain.tags
    assert [HOSTILE in [row[0] for row in page.tables[name]] for name in ("leaderboard", "all")] == [True, True]
    cells = json.loads(page.scripts["application/json"])
    assert [cell["title"] for name, cell in cells.items() if "script" in name] == [f"{HOSTILE}, alpha 1", HOSTILE]


def test_the_same_reports_give_the_same_page():
    assert web_page(run_of_everything()[:40], RUN) == web_page(run_of_everything()[:40], RUN)


def test_size_and_own_lines(tmp_path):
    write_report(run_of_everything(), tmp_path, RUN)
    assert (tmp_path / "index.html").stat().st_size <= 5_000_000
    program = (OWN / "page.js").read_text().splitlines()
    assert len(program) <= 200
    assert max(map(len, program)) <= 150


def test_nothing_is_loaded():
    text = web_page([report_of(cell_of(defense=name)) for name in ("none", "trim")], RUN)
    assert "default-src 'none'" in text
    assert not re.search(r"""\b(?:src|href)=["'](?!data:)""", text.partition("<script")[0])
    assert not re.search(r"@import|url\((?!['\"]?data:)", text)


def test_without_defenses_the_page_says_so():
    text = web_page([], RUN)
    assert "No damage was measured" in text
    assert '<table id="board"' not in text


def test_an_unfinished_run_has_no_page_and_other_files_are_kept(tmp_path):
    reports = [report_of(cell_of(defense="none"))]
    write_report(reports, tmp_path, RUN)
    assert (tmp_path / "index.html").exists()
    write_unfinished(reports, tmp_path, RUN)
    assert not (tmp_path / "index.html").exists()
    (tmp_path / "index.html").write_text("<h1>My own page</h1>")
    with pytest.raises(BadInput, match=r"index\.html is not a report of this program"):
        check_report_directory(tmp_path)
