"""The flame graph, against a golden page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from edgelm.report import render_html
from edgelm.report_flame import Frame, depth, render_svg
from edgelm.validate import host_profile_report
from edgelm.validate.host_profile import HostProfile, OpTime, SignatureProfile

GOLDEN = Path(__file__).parent / "golden" / "flame.svg"

OPS = (
    OpTime("EMBEDDING_LOOKUP", "embedding", 10.0, "EMBEDDING_LOOKUP", delegated=False, reason="a lookup"),
    OpTime("FULLY_CONNECTED", "layers.0", 50.0, "Fully Connected (NC, QD8, F32, QC8W) GEMM", delegated=True),
    OpTime("TANH", "layers.0", 0.0, "TanH (NC)", delegated=True),
    OpTime("SQUARE", "layers.0", 0.0, "", delegated=True),
    OpTime("FULLY_CONNECTED", "head", 30.0, "Fully Connected (NC, QD8, F32, QC8W) GEMM", delegated=True),
)
STEP = SignatureProfile("step", 500, 0.1, 0.11, 0.2, 1.25, OPS)
PROFILE = HostProfile("a <model>", "ai-edge-litert 2.1.0", 1, (STEP,))


def test_the_page_is_the_golden_one():
    ((title, svg),) = host_profile_report.flames(PROFILE)
    assert title == "step: 0.100 ms a call (measured)"
    assert svg + "\n" == GOLDEN.read_text()


def test_frames_are_as_wide_as_their_share():
    svg = ET.fromstring(render_svg(host_profile_report.frame(STEP), "us"))
    bars = {group.find("title").text: float(group.find("rect").get("width")) for group in svg.iter("g")}
    assert bars["step: 100 us, 100.0%"] == 999
    assert bars["layers.0: 50 us, 50.0%"] == 499
    assert bars["in no op: 10 us, 10.0%; the runtime itself, and parts of microseconds"] == 99
    assert depth(host_profile_report.frame(STEP)) == 3


def test_ops_that_xnnpack_does_not_run_are_red_and_what_is_left_grey():
    svg = render_svg(host_profile_report.frame(STEP), "us")
    assert re.search(r"EMBEDDING_LOOKUP: 10 us, 10.0%; a lookup</title><rect [^>]*fill='#cf222e'", svg)
    assert re.search(r"in no op: [^<]*</title><rect [^>]*fill='#8c959f'", svg)
    assert svg.count("#cf222e") == 1


def test_names_are_escaped_and_narrow_frames_left_out():
    svg = render_svg(Frame("a<b", 1000.0, (Frame("wide & good", 999.9), Frame("hidden", 0.1))), "us")
    assert "a&lt;b" in svg and "wide &amp; good" in svg
    assert "hidden" not in svg


def test_the_page_has_the_figure_and_no_verdict():
    page = render_html(host_profile_report.report(PROFILE), host_profile_report.flames(PROFILE)).decode()
    assert "<h1>a &lt;model&gt; on this machine</h1>" in page
    assert ">PASS<" not in page and "Verdict" not in page
    assert page.count("<svg") == 2  # the flame, and the layers as bars
    assert "<script" not in page and "http" not in page


def test_the_tables_add_up_and_name_what_xnnpack_leaves_alone():
    tables = {table.title: table for table in host_profile_report.report(PROFILE).tables}
    rows = {row[0]: row[1:] for row in tables["step: time by layer"].rows}
    assert rows == {"embedding": ("10.0", "10%"), "layers.0": ("50.0", "50%"), "head": ("30.0", "30%"), "in no op": ("10.0", "10%")}
    assert "1.25 times as long" in tables["step: time by layer"].note
    assert tables["Ops that XNNPACK does not run"].rows == (("step", "EMBEDDING_LOOKUP", "embedding", "10", "a lookup"),)
    assert [row[2:] for row in tables["step: ops"].rows if row[0] in ("TANH", "SQUARE")] == [
        ("under 1 us", "TanH (NC)"),
        ("", "fused into its neighbour"),
    ]
