"""The committed report: what is rendered again is what is committed, its numbers are the baselines', and whose data it shows."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_leaderboard import BOARD, HURT, measured

from subpop.defenses import is_exact
from subpop.report.details import RULE
from subpop.report.leaderboard import leaderboards
from subpop.report.published import BEGIN, DATA, END, publish, published_boards, read_board, render, tier_page, with_leaderboard
from subpop.results.paired import EQUIVALENT
from subpop.types import BadInput

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
BOARDS = published_boards(REPORTS)
COSTS = {"clean_accuracy": 0.9, "defended_clean_accuracy": 0.87, "fits_a_trial": 6.0, "seconds_a_trial": 9.0}


def some_boards():
    reports = [measured(HURT, COSTS, **BOARD), measured(HURT - 0.25, COSTS, "n_poison", costs=[0.3] * 6, defense="trim", **BOARD)]
    reports.append(measured(HURT[:2], COSTS, dataset="mixture", **BOARD))
    reports.append(measured(HURT[:2] - 0.1, COSTS, dataset="mixture", defense="trim", **BOARD))
    return leaderboards(reports)


def two_boards():
    """Those of an exact victim and of a network on which another defense runs."""
    reports = [measured(HURT, COSTS, **BOARD), measured(HURT - 0.1, COSTS, defense="trim", **BOARD)]
    network = {"victim": "conv_net", **BOARD}
    second = [measured(HURT * 0.5, COSTS, **network), measured(HURT * 0.1, COSTS, defense="epic", **network)]
    return leaderboards([*reports, *(replace(report, result=replace(report.result, exact=False)) for report in second)])


# --- what is committed ------------------------------------------------------------------------------------------------


def test_a_report_of_the_embedded_tier_is_committed():
    assert "embedded" in [board.tier for board in BOARDS]


@pytest.mark.parametrize("tier", sorted({board.tier for board in BOARDS}))
def test_what_is_committed_is_what_is_rendered(tier):
    own = [board for board in BOARDS if board.tier == tier]
    assert (REPORTS / tier / "README.md").read_text() == tier_page(own), "run `python -m subpop.report.published`"


def test_the_readme_begins_with_the_leaderboard_and_one_figure():
    text = (ROOT / "README.md").read_text()
    assert text == with_leaderboard(text, BOARDS), "run `python -m subpop.report.published`"
    title, introduction = text.partition(BEGIN)[0].split("\n", 1)
    assert title == "# subpop"
    assert len(introduction.split()) <= 60, "the leaderboard comes first, after a sentence that says what it is about"
    shown = text.partition(END)[0]
    (figure,) = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", shown)
    assert (ROOT / figure).is_file()
    assert "**How bad is it?**" in shown


def test_margins_are_stated_in_points_everywhere():
    """`within 0.05` stood in the data and in the figure, beside `within 5 points` on the pages."""
    files = [path for path in REPORTS.rglob("*") if path.is_file()]
    assert {said for path in files for said in re.findall(r"equivalent within [\w.]+ ?\w*", path.read_text())} == {EQUIVALENT}
    assert EQUIVALENT == "equivalent within 5 points"
    assert "that lose 10 or more" in RULE


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.title)
def test_the_numbers_are_those_of_the_baselines(board):
    """Mean damages of the cells, averaged over the splits and set-ups of a data set."""
    stems = {context.stem for context in board.contexts}
    rows = [row for stem in stems for row in csv.DictReader((ROOT / "baselines" / f"{stem}.csv").open())]
    rows = [r for r in rows if r["tier"] == board.tier and r["metric"] == "target_damage_mean" and not r["subpopulation"]]
    compared = 0
    for entry in (*board.entries, board.undefended):
        if entry.n_missing:
            continue
        for dataset, value in entry.by_dataset.items():
            of = [context for context in board.contexts if context.dataset == dataset]
            own = [row for row in rows if row["defense"] == entry.defense and any(is_of(row, context) for context in of)]
            has_references = entry.defense == "none" or (board.tier == "embedded" and not board.stochastic)
            if not own and not (is_exact(entry.defense) and has_references):
                continue
            assert len(own) == len(of), (entry.defense, dataset)
            values = [float(row["value"]) for row in own]
            assert min(values) - 1e-3 <= value <= max(values) + 1e-3, (entry.defense, dataset)
            if len({context.partition for context in of}) == 1:  # otherwise their numbers of subpopulations are the weights
                assert value == pytest.approx(np.mean(values), abs=5e-3), (entry.defense, dataset)
            compared += 1
    exact = [entry for entry in board.entries if is_exact(entry.defense)]
    assert compared >= (len(exact) if board.tier == "embedded" and not board.stochastic else len(board.datasets))


def is_of(row, context):
    """Whether a row of the baselines belongs to a context of a board, with the settings of any defense."""
    setting = dict(each.split("=") for each in row["setting"].split(";"))
    wanted = {**dict(context.setting), "split": context.split}
    same = all(setting.get(name, "0" if name == "split" else None) == value for name, value in wanted.items())
    names = ("dataset", "victim", "partition", "attack")
    told = set(setting) - set(wanted) <= {"holdout"}
    return same and told and float(row["rate"]) == context.rate and all(row[name] == getattr(context, name) for name in names)


# --- whose data committed pages show ----------------------------------------------------------------------------------


def strangers(folder):
    """Files of a committed report that could show pictures or texts of a data set: anything but pages, numbers and figures of
    leaderboards, which have numbers and names of defenses only."""
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".svg":
            kinds = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
            ok = re.fullmatch(r"leaderboard-[\w-]+", path.stem) and "image" not in kinds and "data:image" not in text
        elif path.suffix == ".md":
            pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)|<img[^>]*src=\"([^\"]*)\"", text)
            ok = "data:image" not in text and "\n> " not in text
            ok = ok and all(_is_own_figure(path.parent / (one or other)) for one, other in pictures)
        else:
            ok = path.name in DATA
        found += [] if ok else [str(path.relative_to(folder))]
    return found


def _is_own_figure(path):
    return path.suffix == ".svg" and path.is_file()


def test_committed_pages_show_no_pictures_and_texts_of_other_data_sets():
    assert strangers(REPORTS) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("laptop/faces.png", "x"),
        ("laptop/leaderboard-laptop.svg", '<svg xmlns="http://www.w3.org/2000/svg"><image href="a.png"/></svg>'),
        ("laptop/leaderboard-laptop.svg", '<svg xmlns="http://www.w3.org/2000/svg"><rect fill="url(data:image/png;x)"/></svg>'),
        ("laptop/clusters.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("laptop/README.md", "![a face](https://example.org/face.jpg)\n"),
        ("laptop/README.md", '<img src="face.png">\n'),
        ("laptop/README.md", "Nearest reviews:\n\n> I loved this film.\n"),
        ("laptop/texts.csv", "a,b\n"),
    ],
)
def test_pictures_and_texts_would_be_found(tmp_path, name, content):
    publish(some_boards(), tmp_path)
    render(tmp_path)
    assert strangers(tmp_path) == []
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    assert strangers(tmp_path) == [name]


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_published_board_reads_as_it_was_without_times(tmp_path):
    (board,) = some_boards()
    (path,) = publish([board], tmp_path)
    found = read_board(path)
    assert "seconds" in path.read_text()
    assert [entry.seconds for entry in (*found.entries, *found.controls)] == [None, None]
    assert (found.contexts, found.tier, found.stems, found.datasets) == (board.contexts, board.tier, board.stems, board.datasets)
    one, other = found.entries[0], board.entries[0]
    assert (one.defense, one.knowledge, one.rank, one.payer, one.fits) == (
        other.defense,
        other.knowledge,
        other.rank,
        other.payer,
        other.fits,
    )
    assert one.damage.value == pytest.approx(other.damage.value, abs=1e-4)
    assert one.judged.verdict == other.judged.verdict
    assert one.judged.difference.half_width == pytest.approx(other.judged.difference.half_width, abs=2e-3)
    publish([found], tmp_path / "again")
    assert (tmp_path / "again" / "embedded" / "leaderboard.json").read_text() == path.read_text()


def test_a_rendered_report_has_no_times_and_rendering_again_changes_nothing(tmp_path):
    publish(some_boards(), tmp_path)
    readme = tmp_path / "project.md"
    readme.write_text(f"# subpop\n\n{BEGIN}\nout of date\n{END}\n\nThe rest.\n")
    render(tmp_path, readme)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in first} == {"project.md", "README.md", "leaderboard.json", "leaderboard-embedded.svg"}
    assert "**time**" not in (tmp_path / "embedded" / "README.md").read_text()
    assert "out of date" not in readme.read_text()
    assert readme.read_text().endswith(f"{END}\n\nThe rest.\n")
    render(tmp_path, readme)
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_two_boards_of_a_tier_share_a_page_and_keep_their_defenses_apart(tmp_path):
    publish(two_boards(), tmp_path)
    readme = tmp_path / "project.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    render(tmp_path, readme)
    assert strangers(tmp_path / "embedded") == []
    assert {path.name for path in (tmp_path / "embedded").iterdir()} == {
        *("README.md", *DATA, "leaderboard-embedded.svg", "leaderboard-embedded-stochastic.svg")
    }
    one, other = (tmp_path / "embedded" / "README.md").read_text().split("## conv_net")
    assert ("epic" in one, "trim" in one) == (False, True)
    assert ("epic" in other, "trim" in other) == (True, False)
    (paragraph,) = [line for line in readme.read_text().splitlines() if "epic" in line]
    assert paragraph.startswith("**And on conv_net?** At alpha 1")
    assert "trim" not in paragraph
    assert readme.read_text().count("![") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "cannot be read as a published leaderboard"),
        ("[]", "cannot be read as a published leaderboard"),
        ("no", "cannot be read as a published leaderboard"),
        (json.dumps({"schema": 9}), "has schema 9; this subpop reads schema 2"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "leaderboard.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        read_board(tmp_path / "leaderboard.json")


def test_a_readme_without_a_place_is_refused():
    with pytest.raises(BadInput, match="has no lines"):
        with_leaderboard("# subpop\n", some_boards())
