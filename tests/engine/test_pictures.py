"""df.svg and df.mermaid: the graph as a picture, of a flow and of a run, whatever is written in it."""

import json
import re
from xml.etree import ElementTree

import psycopg
import pytest

from tests.support import Database, Pump, Run

SVG = "{http://www.w3.org/2000/svg}"
TAGS = {"svg", "title", "style", "rect", "g", "circle", "path", "text"}
ATTRIBUTES = {"class", "role", "aria-label", "x", "y", "width", "height", "viewBox", "rx", "cx", "cy", "r", "d",
              "transform", "data-node"}  # fmt: skip
NASTY = '</title><script>alert(1)</script>&amp;"\' onload="x" ]]> <!-- \x01\x1b[2J\u202e\ufffe 😀'
EVERYTHING = """
  'select 1 as n' |=> 'first' ~> df.if('select true', 'select 2' ~> 'select 3', 'select 4')
  ~> ('select 5' & 'select 6') ~> df.race('select 7', df.sleep(100)) ~> df.any('select 8', 'select 9')
  ~> df.loop('select 10', 'select false') ~> df.map('select * from generate_series(1, 3)', 'select $item')
  ~> df.catch('select 1/0', 'select 11') ~> df.undo('select 12', 'select 13')
  ~> df.timeout(df.wait_for_signal('approve'), 3600, 'select 14')
  ~> df.call('select 15') ~> df.wait_for('select true', every => '1 s') ~> df.loop(df.break('1'))"""


def svg(db: Database, what: str, user: str | None = "app") -> ElementTree.Element:
    """The document, which has only what draws, and asks for nothing."""
    root = ElementTree.fromstring(str(db.sql("select df.svg(%s)", what, user=user)))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= TAGS
    assert {name for element in root.iter() for name in element.attrib} <= ATTRIBUTES
    assert [re.search(r"url\(|@import|expression", str(style.text)) for style in root.iter(f"{SVG}style")] == [None]
    return root


def shapes(root: ElementTree.Element) -> dict[str, str]:
    """The shapes: of the first line in each its classes."""
    found = {}
    for shape in root.iter(f"{SVG}svg"):
        text = shape.find(f"{SVG}text")
        if shape is not root and text is not None:
            found[str(text.text)] = shape.attrib["class"]
    return found


def balanced(*steps: str) -> str:
    """An envelope of a sequence, of any length."""
    if len(steps) == 1:
        return json.dumps({"node_type": "SQL", "query": steps[0]})
    middle = len(steps) // 2
    return f'{{"node_type":"THEN","left_node":{balanced(*steps[:middle])},"right_node":{balanced(*steps[middle:])}}}'


def joined(*branches: str) -> str:
    left, right, *others = branches
    return f'{{"node_type":"JOIN","left_node":{left},"right_node":{right},"extra_nodes":[{",".join(others)}]}}'


def test_every_construct_is_a_frame_and_every_leaf_a_box(pump: Pump) -> None:
    found = shapes(svg(pump.db, EVERYTHING))
    panels = {text.split(" ")[0] for text, classes in found.items() if classes == "panel"}
    assert panels == {"IF", "JOIN", "RACE", "ANY", "LOOP", "MAP", "CATCH", "UNDO", "TIMEOUT", "WAIT_FOR"}
    assert (
        found["select 1 as n"] == found["SIGNAL 'approve'"] == found["CALL 'select 15'"] == found["BREAK '1'"] == "step"
    )
    labels = [text.text for text in svg(pump.db, EVERYTHING).iter(f"{SVG}text") if text.attrib["class"] == "part"]
    assert labels == ["condition", "then", "else", "body", "while", "items", "each", "body", "handler",
                      "step", "compensation", "body", "otherwise", "until", "body"]  # fmt: skip


def test_a_sequence_goes_right_branches_go_down_and_nothing_overlaps(db: Database) -> None:
    root = svg(db, "'select 1' ~> ('select 2' & ('select 3' ~> 'select 4')) ~> 'select 5'")
    at = {
        str(shape.findtext(f"{SVG}text")): tuple(int(shape.attrib[name]) for name in ("x", "y", "width", "height"))
        for shape in root.iter(f"{SVG}svg") if shape is not root
    }  # fmt: skip
    one, join, two, three, four, five = (at[text] for text in (
        "select 1", "JOIN (2)", "select 2", "select 3", "select 4", "select 5"))  # fmt: skip
    assert one[1] == join[1] == five[1]
    assert one[0] + one[2] < join[0] and join[0] + join[2] < five[0]
    assert two[0] == three[0] and two[1] + two[3] < three[1] == four[1] and three[0] + three[2] < four[0]
    assert join[0] < three[0] and four[0] + four[2] < join[0] + join[2] and four[1] + four[3] < join[1] + join[3]
    assert int(root.attrib["width"]) > five[0] + five[2] and int(root.attrib["height"]) > join[1] + join[3]


def test_a_run_shows_its_statuses_by_class_by_sign_and_in_words(pump: Pump) -> None:
    run = pump.start(f"{EVERYTHING}", "nightly")
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting where kind = 'signal'"))
    root = svg(pump.db, run.id)
    found = shapes(root)
    assert found["select 1 as n"] == "step completed"
    assert found["select 4"] == found["SLEEP 100s"] == "step skipped"
    assert found["SIGNAL 'approve'"] == "step running"
    assert found["TIMEOUT 3600s"] == "panel running"
    assert found["select 1/0"] == "step failed"
    assert found["select 14"] == "step pending"
    signed = [shape for shape in root.iter(f"{SVG}svg") if shape is not root and shape.find(f"{SVG}g") is not None]
    assert len(signed) == len([shape for shape in root.iter(f"{SVG}svg")]) - 1
    titles = [str(shape.findtext(f"{SVG}title")) for shape in signed]
    assert any(
        title.startswith("SQL: select 1/0\nfailed, 1 attempt") and "division by zero" in title for title in titles
    )
    assert root.attrib["role"] == "img"
    name = root.attrib["aria-label"]
    assert name == root.findtext(f"{SVG}title")
    assert name.startswith(f"Instance: {run.id} (nightly), Status: ⏳ running, ") and "1 failed" in name
    ids = {shape.attrib["data-node"] for shape in signed}
    assert ids <= {row[0] for row in pump.db.rows("select id from df.nodes where instance_id = %s", run.id)}


def test_details_are_the_name_attempts_items_iterations_and_the_called_run(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    run = pump.run(
        "df.catch(df.retry('select 1/0', max_attempts => 2, initial_delay => '1 ms'), 'select 1' |=> 'x') "
        "~> df.map('select * from generate_series(1, 3)', 'select 2') ~> df.call('select 3') "
        "~> df.loop('insert into fx values (1)', 'select count(*) < 3 from fx')"
    )
    texts = " | ".join(str(text.text) for text in svg(pump.db, run.id).iter(f"{SVG}text"))
    child = pump.db.sql("select id from df.instances where parent_id = %s", run.id)
    assert "division by zero" in texts
    assert "sql · → x" in texts
    assert "3 items" in texts
    assert f"→ {child}" in texts
    assert "iteration 3" in texts
    assert "2 attempts" in "".join(str(title.text) for title in svg(pump.db, run.id).iter(f"{SVG}title"))


def test_what_a_run_contains_is_never_markup(pump: Pump) -> None:
    db = pump.db
    text = db.sql("select quote_literal(%s)", f"select '{NASTY}'".replace('onload="x" ]]>', "x").replace("' ", "'' "))
    flow = f"{text} ~> df.wait_for_signal(%s) ~> 'select 1' |=> 'x'"
    run = Run(db, str(db.sql(f"select df.start({flow}, %s)", "<b>&\u202e", "<i>\x02\"'&")))
    failing = str(db.sql("select df.start(format('do $x$ begin raise exception %%L; end $x$', %s::text))", NASTY))
    pump.until(Run(db, failing).ended)
    for what in (run.id, failing):
        root = svg(db, what)
        written = "".join(root.itertext()) + root.attrib["aria-label"]
        assert not re.search("[\x01\x02\x1b\u202e\ufffe]", written)
        assert "<i>�\"'&" in written or "</title><script>alert(1)</script>&amp;" in written
        chart = str(db.sql("select df.mermaid(%s)", what))
        assert not re.search(r"<(?!br>)|&|\x01|\x1b|\u202e|%%|`", chart)
        for line in chart.splitlines():
            assert line.count('"') in (0, 2), line


def test_long_texts_are_cut(db: Database) -> None:
    root = svg(db, "select '" + "x" * 100_000 + "'")
    assert len(ElementTree.tostring(root)) < 10_000
    (box,) = shapes(root)
    assert box.endswith("…") and len(box) < 40
    assert str(db.sql("select df.mermaid(%s)", "select '" + "x" * 100_000 + "'")).count("x") < 60


def test_long_sequences_fold(db: Database) -> None:
    envelope = balanced(*(f"select {n}" for n in range(5000)))
    found = list(shapes(svg(db, envelope)))
    assert found == [*(f"select {n}" for n in range(8)), "… 4 989 more", "select 4997", "select 4998", "select 4999"]
    chart = str(db.sql("select df.mermaid(%s)", envelope))
    assert "4 989 more" in chart and chart.count("-->") == 11
    sixteen = balanced(*(f"select {n}" for n in range(16)))
    assert len(shapes(svg(db, sixteen))) == 16


def test_many_branches_fold(db: Database) -> None:
    found = shapes(svg(db, joined(*(balanced(f"select {n}", f"select -{n}") for n in range(1, 1001)))))
    assert "JOIN (1000)" in found
    assert list(found)[-7:-6] == ["… 989 more branches"]
    assert len(found) == 1 + 2 * 11 + 1


def test_what_fails_or_runs_is_not_folded_and_the_rest_is_counted(pump: Pump) -> None:
    steps = ["'select 1'"] * 20 + ["'select 1/0'"] + ["'select 2'"] * 20
    run = pump.run(" ~> ".join(steps))
    texts = [str(text.text) for text in svg(pump.db, run.id).iter(f"{SVG}text")]
    assert "select 1/0" in texts
    assert texts[texts.index("… 12 more") + 1] == "✓ 12"
    assert texts[texts.index("… 17 more") + 1] == "⊘ 17"


def test_deep_graphs_are_closed_where_there_is_no_more_room(db: Database) -> None:
    envelope = json.dumps({"node_type": "SQL", "query": "select 1"})
    for _ in range(4):
        envelope = joined(*[envelope] * 9)
    root = svg(db, envelope)
    drawn = [shape for shape in root.iter(f"{SVG}svg") if shape is not root]
    assert len(drawn) == 1 + 9 + 81
    assert [shape.attrib["class"] for shape in drawn].count("closed") == 81
    assert "… 90 inside" in "".join(root.itertext())


def test_a_deep_graph_is_drawn_to_its_innermost_step(db: Database) -> None:
    deep = "'select 1'"
    for _ in range(60):
        deep = f"df.catch({deep}, 'select 2')"
    assert "select 1" in shapes(svg(db, deep))
    assert str(db.sql("select df.mermaid(%s)", deep)).count("subgraph") == 3 * 60


def test_mermaid_has_subgraphs_arrows_and_classes(pump: Pump) -> None:
    run = pump.run("'select 1' ~> ('select 2' & 'select 1/0')")
    chart = [line.strip() for line in str(pump.db.sql("select df.mermaid(%s)", run.id)).splitlines()]
    assert chart[0] == "flowchart LR"
    assert len([line for line in chart if line.startswith("subgraph")]) == chart.count("end") == 3
    assert 'n2["✓ select 1<br>sql"]' in "\n".join(re.sub(r" · [0-9.]+ m?s", "", line) for line in chart)
    assert "n2 --> n3" in chart
    assert "class n5 failed" in chart and "class n2 completed" in chart
    assert any(line.startswith("classDef failed ") for line in chart)


def test_definitions_and_flows_are_drawn_as_explain_reads_them(db: Database) -> None:
    db.sql("select df.define('bill', 'select 1' ~> 'select 2')")
    assert (
        list(shapes(svg(db, "@bill"))) == list(shapes(svg(db, "'select 1' ~> 'select 2'"))) == ["select 1", "select 2"]
    )
    assert db.sql("select df.svg(null)") is None


@pytest.mark.parametrize("function", ["svg", "mermaid"])
def test_what_cannot_be_drawn_raises(db: Database, function: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="nothing to draw in 'hello'"):
        db.sql(f"select df.{function}('hello')")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="nothing to draw"):
        db.sql(f"select df.{function}('null || df.sleep(1)')")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        db.sql(f"""select df.{function}('{{"node_type": "THEN"}}')""")


@pytest.mark.parametrize("function", ["svg", "mermaid"])
def test_the_runs_of_others_are_not_found(pump: Pump, function: str) -> None:
    run = pump.start("'select 1'")
    for user, which in (("other", run.id), ("app", "deadbeef")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not found"):
            pump.db.sql(f"select df.{function}(%s)", which, user=user)
    assert "select 1" in str(pump.db.sql(f"select df.{function}(%s)", run.id))


def test_colours_follow_the_system_and_each_status_has_a_sign(db: Database) -> None:
    text = str(db.sql("select df.svg('select 1')"))
    assert "prefers-color-scheme:dark" in text and "system-ui" in text and "radient" not in text
    signs = [db.sql("select df_engine.svg_sign(%s, 0, 0)", status)
             for status in ("completed", "failed", "running", "skipped", "pending")]  # fmt: skip
    assert len({re.sub(r'class="[^"]*"', "", str(sign)) for sign in signs}) == 5
