"""Texts of the worst subpopulations on a page: which ones, what is told of them, and that no text is obeyed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from synthetic_reports import cell_of, report_of

from subpop.report import RunInfo, results_json
from subpop.report.examples import LONGEST, example_texts, facts, shorten, shown
from subpop.report.suite_page import suite_page
from subpop.types import CellReport

RUN = RunInfo(tier="embedded", command="python -m pytest benchmarks/")
HOSTILE = [
    "I hated it.<br /><br />Really <BR/>did",
    "a | b || c",
    "*stars* **bold** _em_ __strong__ ~~gone~~",
    "`code` ``more`` ```fence```",
    "<script>alert(1)</script><img src=x onerror=alert(1)><!-- hidden",
    "</li></ul><h1>big</h1>",
    "[link](javascript:alert(1)) ![image](http://evil.example/x.png)",
    "# heading\n\n1. list\n- item\n> quote\n---\n",
    "https://evil.example www.evil.example me@evil.example @octocat #12",
    "&lt;b&gt; &#60;script&#62; \\<b\\>",
    "$x$ $$y$$",
    "turned \u202eround\u202c, zero\u200bwidth, bell\x07, null\x00, half \ud800 a pair, escape\x1b[31m",
    "line\u2028breaks\u2029of\x85all\rkinds\x0b\x0c",
    "| a |\n|---|\n| b |",
]


def reviews(damages, rate=2.0, defense="none", texts=("A review.",), n_test=40, named=None, columns=None, **changes):
    """A cell with one subpopulation a damage, each with the same texts."""
    cell = cell_of(
        stem="imdb_cluster_match", kind="imdb", dataset="reviews", victim="text_linear", rate=rate, defense=defense, **changes
    )
    report = report_of(cell, len(damages))
    names = [f"cluster={i}" for i in range(len(damages))]
    table = tuple(
        {**row, "subpopulation": name, "target_damage": damage, "n_test": float(n_test), **(columns or {})}
        for row, name, damage in zip(report.result.table, names, damages, strict=True)
    )
    arrays = {f"texts:{name}": np.array(texts) for name in (names if named is None else named)}
    return replace(report, result=replace(report.result, table=table, arrays=arrays))


def items(blocks):
    """The lists of all blocks as {subpopulation: (facts, texts)}, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse("\n\n".join(blocks))
    found, depth = {}, 0
    for token in tokens:
        depth += token.nesting if token.type.startswith("bullet_list") else 0
        if token.type == "inline" and depth == 1:
            name, _, rest = token.content.partition("**: ")
            found[name.removeprefix("**")] = (rest, [])
        elif token.type == "inline" and depth == 2:
            found[next(reversed(found))][1].append(visible(token))
    return found


def visible(token):
    assert {child.type for child in token.children} <= {"text", "text_special", "entity"}, token.content
    return "".join(child.content for child in token.children)


# --- which ones -------------------------------------------------------------------------------------------------------


def test_the_three_worst_at_the_largest_alpha_are_shown():
    blocks = example_texts(
        [reviews([0.1, 0.4, 0.2, 0.3], rate=1.0), reviews([0.5, 0.1, 0.3, 0.4], rate=2.0), reviews([0.9], rate=0.5)]
    )
    assert list(items(blocks)) == ["cluster=0", "cluster=3", "cluster=2"]
    assert blocks[0] == "## Texts of the worst subpopulations"
    assert sum("alpha 2" in block for block in blocks) == 1
    assert not any("alpha 1" in block for block in blocks)


def test_equal_damages_stand_in_the_order_of_their_names():
    assert list(items(example_texts([reviews([0.2, 0.2, 0.2, 0.2])]))) == ["cluster=0", "cluster=1", "cluster=2"]


def test_the_attack_alone_is_shown_where_it_was_measured():
    plain, defended = reviews([0.1, 0.3]), reviews([0.5, 0.2], defense="drop_some")
    assert list(items(example_texts([defended, plain]))) == ["cluster=1", "cluster=0"]
    (_, _, _, details, _) = example_texts([defended])
    assert "defense drop_some" in details


def test_of_several_splits_the_first_is_shown_and_named():
    splits = [reviews([0.1, 0.3], split=1), reviews([0.4, 0.2], split=0)]
    blocks = example_texts(splits)
    assert list(items(blocks)) == ["cluster=0", "cluster=1"]
    assert "split 0" in blocks[3]


def test_set_ups_are_shown_apart():
    blocks = example_texts([reviews([0.1]), reviews([0.2], protocol="other")])
    assert sum(block.startswith("### ") for block in blocks) == 2


def test_subpopulations_that_are_not_ranked_or_have_no_texts_are_left_out():
    assert example_texts([reviews([0.9, 0.8], n_test=19)]) == []
    assert list(items(example_texts([reviews([0.9, 0.8], n_test=20)]))) == ["cluster=0", "cluster=1"]
    assert list(items(example_texts([reviews([0.9, 0.8, 0.7], named=["cluster=2", "cluster=77"])]))) == ["cluster=2"]
    assert list(items(example_texts([reviews([float("nan"), 0.1])]))) == ["cluster=1"]


def test_nothing_is_shown_without_texts():
    failed = CellReport(cell_of(), None, status="error", reason="broken")
    assert example_texts([]) == example_texts([failed, report_of(cell_of())]) == []


# --- what is told -----------------------------------------------------------------------------------------------------


def test_facts_by_hand():
    row = {
        "target_damage": 0.5058,
        "target_damage_half_width": 0.032,
        "target_clean_accuracy": 0.988,
        "n_train": 91.0,
        "n_poison": 150.0,
    }
    told = "target damage 50.6 ± 3.2 %; clean accuracy 98.8 %; rows: 91 in D, 150 of poison"
    assert facts(row) == told
    assert facts({**row, "positive_share": 0.984}) == told + "; positive 98 %"
    assert facts({**row, "label": "<b>", "label_share": 0.61}) == told + "; &lt;b&gt; 61 %"
    assert (
        facts({"target_damage": -0.02, "target_damage_half_width": float("nan"), "n_test": float("nan")})
        == "target damage -2.0 %"
    )


# --- hostile texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_obeyed(text):
    found = items(example_texts([reviews([0.3, 0.2], texts=(text, "The next one."))]))
    assert list(found) == ["cluster=0", "cluster=1"]
    for _, texts in found.values():
        assert len(texts) == 2
        assert texts[1] == "“The next one.”"


def test_a_hostile_text_reads_as_it_was_written():
    def read(text):
        return items(example_texts([reviews([0.3], texts=(text,))]))["cluster=0"][1][0].replace("\u200b", "")

    assert read(HOSTILE[0]) == "“I hated it. Really did”"
    for text in HOSTILE[1:7]:
        assert read(text) == f"“{text}”"
    assert read(HOSTILE[7]) == "“# heading 1. list - item > quote ---”"
    assert read(HOSTILE[8]) == f"“{HOSTILE[8]}”"
    assert read(HOSTILE[9]) == f"“{HOSTILE[9]}”"
    assert read(HOSTILE[11]) == "“turned round, zerowidth, bell, null, half a pair, escape[31m”"
    assert read(HOSTILE[12]) == "“line breaks of all kinds”"


def test_addresses_and_mentions_come_apart():
    words = shown(HOSTILE[8])
    assert not any(link in words for link in ("https:", "www.", "@e", "@o", "#1"))


@given(st.text(max_size=400))
def test_any_text_is_one_visible_line_that_can_be_written(text):
    found = items(example_texts([reviews([0.3], texts=("before", f"x{text}", "after"))]))
    (_, texts) = found["cluster=0"]
    assert (len(texts), texts[0], texts[2]) == (3, "“before”", "“after”")
    words = shown(text)
    assert "\n" not in words
    assert words.encode().decode() == words


@given(st.text(alphabet="ab ", max_size=60), st.integers(1, 40))
def test_shortened_texts_are_whole_words(text, limit):
    text = " ".join(text.split())
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
        return
    kept = short.removesuffix("…")
    assert short.endswith("…")
    assert len(kept) <= limit
    assert text.startswith(kept)
    whole = text[len(kept)] == " "
    assert whole or len(text[: limit + 1].rpartition(" ")[0]) <= limit // 2  # a word is cut where it is too long alone


def test_shortening_by_hand():
    assert shorten("one two three", 13) == "one two three"
    assert shorten("one two three", 12) == "one two…"
    assert shorten("one two three", 7) == "one two…"
    assert shorten("w" * 300) == "w" * LONGEST + "…"
    assert shorten("a " + "w" * 300) == "a " + "w" * (LONGEST - 2) + "…"


def test_a_text_of_brackets_is_read_in_no_time():
    assert shown("<" + " " * 200_000 + "br").startswith("&lt; br")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_texts_stand_on_the_page_and_change_nothing_else():
    with_texts = reviews([0.3, 0.2], texts=HOSTILE)
    without = replace(with_texts, result=replace(with_texts.result, arrays={}))
    assert results_json([with_texts], RUN) == results_json([without], RUN)
    page, plain = (suite_page("imdb_cluster_match", [report], RUN) for report in (with_texts, without))
    begin, end = page.index("## Texts of the worst subpopulations"), page.index("## Subpopulations")
    assert "I hated it. Really did" in page[begin:end]
    assert page[:begin] + page[end:] == plain
