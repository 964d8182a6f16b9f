"""The summary for continuous integration: what is said, how large it may be, and that hostile text stays text."""

import json
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.build_result import BuildResult, NodeResult, RunResult
from pipeline.difference import compare_bytes, to_json
from pipeline.report.documents import Build, Unreadable, Verification, parse_document, read_document
from pipeline.report.markdown import escape
from pipeline.report.summary import LIMIT_BYTES, dotenv, junit, markdown, outputs, values_json, verdict_of
from pipeline.sandbox import NotExercised
from provenance.claims import Measurements, Tool

HOSTILE = "<script>alert(1)</script>|[x](javascript:y)`*_#\n\x1b[31m@someone https://example.org \u202e"


def build(verdict="reproduced", **changes):
    return {
        "schema": "rvp/build/v1",
        "project": "keyservice",
        "verdict": verdict,
        "nodes": [{"node": "step.enclave", "verdict": verdict, "differing": ["enclave.so"]}],
        "measurements": [
            {
                "node": "measure.enclave",
                "measurements": [
                    {
                        "tee": "sgx",
                        "subject": {"name": "e.so"},
                        "claims": {"mrenclave": "ab" * 32, "isvsvn": 2},
                    }
                ],
            }
        ],
    } | changes


def verification(verdict="passed", **changes):
    check = {"id": "quorum", "status": "passed", "expected": "2 of 2", "got": "2"}
    return {"schema": "rvp/verification/v1", "verdict": verdict, "exit_code": 0, "checks": [check]} | changes


def read(document):
    return parse_document(json.dumps(document).encode(), name="x.json")


def test_a_real_build_result_is_read():
    result = BuildResult(
        tool=Tool(name="rvp", version="1"),
        project="p",
        version="1.0",
        recipe="ab" * 32,
        epoch=0,
        times=2,
        verdict="reproduced",
        nodes=(
            NodeResult(
                node="step.a",
                verdict="reproduced",
                inputs_agree=True,
                runs=(
                    RunResult(
                        run=1,
                        status="ran",
                        key="aa",
                        inputs={},
                        outputs="bb",
                        exercised=("time",),
                        not_exercised=(NotExercised(variation="locale", reason="no files"),),
                    ),
                ),
            ),
        ),
    )
    page = markdown([parse_document(msgspec.json.encode(result), name="result.json")])
    assert "reproduced p 1&#46;0" in page
    assert "| <code>step&#46;a</code> | ✅ reproduced | time | locale |" in page


def test_values_are_a_table_row_each():
    page = markdown([read(build())])
    assert f"| sgx | <code>e&#46;so</code> |  | <code>mrenclave</code> | <code>{'ab' * 32}</code> |" in page
    assert "| <code>isvsvn</code> | <code>2</code> |" in page


def test_divergence_names_step_and_files():
    page = markdown([read(build("diverged"))])
    assert "| <code>step&#46;enclave</code> | agree | <code>enclave&#46;so</code> |" in page


def test_checks_have_expected_and_got_and_what_was_not_checked():
    check = {
        "id": "mrtd",
        "status": "failed",
        "expected": "aa",
        "got": "bb",
        "code": "RVP-6400",
        "hint": "look",
    }
    page = markdown([read(verification("failed", checks=[check], not_checked=["rtmr3"]))])
    assert "| <code>mrtd</code> | ❌ failed | <code>aa</code> | <code>bb</code> | RVP-6400 look |" in page
    assert "Not checked:" in page
    assert "- rtmr3" in page


def test_differences_name_the_cause_first():
    found = compare_bytes(b"at 1700000000\n", b"at 1800000000\n", name="log.txt")
    page = markdown([parse_document(to_json((found,)), name="difference.json")])
    assert "- log&#46;txt&#58; text differs at line 1 &#40;likely cause&#58; timestamp&#41;" in page
    assert "<details>" in page


def test_measurements_are_read():
    document = msgspec.to_builtins(Measurements(tool=Tool(name="rvp", version="1"), measurements=()))
    assert "### Values" in markdown([read(document)])


@pytest.mark.parametrize(
    "data", [b"", b"  \n", b"{", b"[]", b'{"schema": "other"}', b'{"schema": "rvp/build/v1"}', b"\xff"]
)
def test_a_broken_document_is_a_line_and_never_a_pass(data):
    document = parse_document(data, name="x.json")
    assert isinstance(document, Unreadable)
    assert "x&#46;json" in markdown([document])
    assert verdict_of([read(verification()), document]) == "inconclusive"


def test_a_missing_document_is_a_line(tmp_path):
    assert "was not written" in markdown([read_document(tmp_path / "none.json")])


def test_no_document_with_a_verdict_is_inconclusive():
    assert verdict_of([]) == "inconclusive"
    assert verdict_of([read(verification("splendid"))]) == "inconclusive"


def test_the_last_verdict_counts():
    assert verdict_of([read(build()), read(verification("failed"))]) == "failed"
    assert verdict_of([read(build())]) == "reproduced"


def test_the_page_is_bounded_and_counts_what_is_left_out():
    nodes = [{"node": f"step.{'x' * 200}{n}", "verdict": "reproduced"} for n in range(5000)]
    page = markdown([read(build(nodes=nodes))])
    assert len(page.encode()) <= LIMIT_BYTES
    assert "more lines did not fit" in page


def test_hostile_text_stays_text():
    document = build(
        project=HOSTILE,
        nodes=[{"node": HOSTILE, "verdict": "diverged", "differing": [HOSTILE]}],
        artifacts=[{"name": HOSTILE, "size_bytes": 1}],
    )
    found = compare_bytes(b"a\n", b"b\n", name=HOSTILE)
    check = {"id": HOSTILE, "status": HOSTILE, "expected": HOSTILE, "got": HOSTILE, "hint": HOSTILE}
    page = markdown(
        [
            read(document),
            read(verification(checks=[check], not_checked=[HOSTILE])),
            parse_document(to_json((found,)), name="d"),
        ]
    )
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(page)
    assert "<script" not in html
    assert "<a " not in html
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "javascript" in html  # as text


@given(text=st.text(max_size=80))
def test_escaped_text_renders_as_itself(text):
    shown = escape(text)
    html = MarkdownIt("commonmark").renderInline(shown)
    plain = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    expected = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    assert plain.strip() == expected.strip()


def test_outputs_are_one_line_each_whatever_the_values_are():
    document = build()
    document["measurements"][0]["node"] = "a\nverdict=passed"
    lines = outputs([read(document)], bundle_path="x\nverdict=passed").splitlines()
    assert [line.split("=", 1)[0] for line in lines] == ["verdict", "values-json", "bundle-path"]
    assert json.loads(lines[1].split("=", 1)[1])[0]["measure"] == "a\nverdict=passed"


def test_large_values_are_not_handed_on():
    document = build()
    document["measurements"] = document["measurements"] * 4000
    assert len(values_json([read(document)])) > 500_000
    assert "values-json=[]" in outputs([read(document)])


def test_dotenv_has_verdict_and_exit_code():
    assert dotenv([read(verification("failed", exit_code=13))]) == "RVP_VERDICT=failed\nRVP_EXIT_CODE=13\n"


def test_junit_counts_its_cases():
    checks = [
        {"id": f"{HOSTILE}{status}", "status": status} for status in ("passed", "failed", "skipped", "odd")
    ]
    report = junit(
        [
            read(build("diverged")),
            read(verification("failed", checks=checks)),
            Unreadable(name="n", reason="r"),
        ]
    )
    suites = ET.fromstring(report).findall("testsuite")
    assert [suite.get("tests") for suite in suites] == ["1", "4", "1"]
    assert [suite.get("failures") for suite in suites] == ["1", "1", "0"]
    assert [suite.get("errors") for suite in suites] == ["0", "1", "1"]
    assert [suite.get("skipped") for suite in suites] == ["0", "1", "0"]


def test_equal_documents_give_equal_pages():
    documents = [read(build()), read(verification())]
    assert isinstance(documents[0], Build)
    assert isinstance(documents[1], Verification)
    assert markdown(documents) == markdown([read(build()), read(verification())])


def test_the_error_of_a_command_is_told_in_place_of_its_result() -> None:
    data = (
        b'{"schema": "rvp/error/v1", "code": "RVP-3001", "exit_code": 5, "message": "step.a: exit status 1"}'
    )
    found = parse_document(data, name="build.json")
    assert found == Unreadable(name="build.json", reason="was not made: step.a: exit status 1 [RVP-3001]")
