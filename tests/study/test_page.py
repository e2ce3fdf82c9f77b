"""Sections as Markdown and HTML."""

from __future__ import annotations

from dcd_components.study.page import LINE, Picture, Section, Table, markdown, page

ROW = {"method": "dcd_logits", **{f"score {n}": "+0.100 [+0.100, +0.100]" for n in range(9)}}
COLUMNS = {key: (key, "s") for key in ROW}


def test_a_table_that_is_too_wide_becomes_several_with_the_same_first_column() -> None:
    tables = Table([ROW, ROW], COLUMNS, "Read it so.").split(LINE)
    assert len(tables) == 3
    assert [next(iter(one.columns)) for one in tables] == ["method"] * 3
    assert [key for one in tables for key in [*one.columns][1:]] == [*COLUMNS][1:]
    assert [one.caption for one in tables] == ["", "", "Read it so."]
    text = markdown([Section("Scores", [Table([ROW], COLUMNS)])])
    assert all(len(line) < LINE + 5 for line in text.splitlines())


def test_a_table_that_fits_stays_one() -> None:
    columns = {key: COLUMNS[key] for key in ("method", "score 1", "score 2")}
    assert Table([ROW], columns).split(LINE) == [Table([ROW], columns)]
    assert Table([ROW], {"method": ("Method", "")}).split(LINE) == [Table([ROW], {"method": ("Method", "")})]


def test_a_column_wider_than_a_page_has_a_table_of_its_own() -> None:
    row = {**ROW, "score 1": "x" * LINE}
    tables = Table([row], COLUMNS).split(LINE)
    assert [[*one.columns] for one in tables][:2] == [["method", "score 0"], ["method", "score 1"]]
    assert len(tables) == 5


def test_the_page_has_room_for_more_columns() -> None:
    assert page("Study", [Section("Scores", [Table([ROW], COLUMNS)])]).count("<table>") == 2


def test_texts_are_escaped_and_pictures_stand_on_the_page_alone() -> None:
    sections = [Section("At equal cost", ["a < b", Picture("sizes.png", '"Gap" & <all>')]), Section("Curves", [])]
    html = page("Study: a<b", sections)
    assert "<h1>Study: a&lt;b</h1>" in html
    assert '<h2 id="at-equal-cost">At equal cost</h2>\n<p>a &lt; b</p>' in html
    assert 'alt="&quot;Gap&quot; &amp; &lt;all&gt;"' in html
    assert '<a href="#curves">Curves</a>' in html
    assert markdown(sections) == "## At equal cost\n\na < b"
