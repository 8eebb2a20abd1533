"""The report of a run on a device: one golden shared with the Java core, everything else refused by key."""

from __future__ import annotations

import copy
import json
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.device import profile_report
from edgelm.device.profile_report import MAX_FILE_BYTES, ProfileReport, decode, parse, read
from edgelm.device.strict_json import MAX_NUMBER
from edgelm.errors import ProfileReportError

GOLDEN = Path(__file__).parent.parent / "golden" / "profile_report.json"


def plain() -> dict:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def changed(path: str, value: object) -> dict:
    """The golden with the value at `a.b.0.c` replaced."""
    *parents, last = path.split(".")
    report = plain()
    inner = report
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    return report


def test_the_golden_is_read_and_written_byte_for_byte():
    report = read(GOLDEN)
    assert report.encode() == GOLDEN.read_bytes()
    assert (report.made_by, report.model.name, report.device.abi, report.device.features[1]) == (
        "app",
        "keyboard-lstm",
        "arm64-v8a",
        "dotprod",
    )
    assert report.device.title == 'Example Phone "7" \\ é'
    assert report.memory.growth_mb == 11.5


def test_percentiles_are_numpys_linear_ones():
    first, second = read(GOLDEN).statistics()
    assert (first.signature, first.tokens, first.best, first.median) == ("decode_128", 4, 1.0, 2.5)
    assert first.p90 == pytest.approx(3.7)
    assert first.p95 == pytest.approx(3.85)
    assert first.tokens_per_second == pytest.approx(400.0)
    assert second.tokens_per_second == pytest.approx(2000 / 10.5625)


def test_a_signature_without_tokens_has_no_statistics():
    report = parse(changed("decode.signature_ms", {"step": [1.0], "prefill_32": []}))
    assert [one.signature for one in report.statistics()] == ["step"]


def test_unknown_values_are_empty():
    report = plain()
    report["device"] = {
        key: [] if key == "features" else 0 if isinstance(value, int | float) else "" for key, value in report["device"].items()
    }
    report |= {"prefill": None, "thermal": [], "started_at": "", "tool_version": ""}
    report["model"]["sha256"] = ""
    read_back = parse(report)
    assert read_back.device.title == "a device with an unknown CPU"
    assert read_back.prefill is None


def test_whole_numbers_are_times_too():
    assert parse(changed("load_ms", 12)).load_ms == 12.0


ILLEGAL = {
    "made_by": ["phone", "", None, 1, ["app"], {"a": 1}],
    "tool_version": [1, None, "x" * 201, "a\x1b[2J", "two\nlines"],
    "load_ms": [-1, -0.001, "1", True, None, [1], MAX_NUMBER * 10, 10**400],
    "model": [None, [], "m"],
    "model.bytes": [1.5, -1, "9", True],
    "model.sha256": ["abc", "Z" * 64, "A" * 64],
    "device.android_api": [34.0, -1],
    "device.features": ["neon", [1], None, {"neon": 1}],
    "decode.signature_ms": [[], None, {"step": 1.0}, {"step": ["1"]}, {"step": [-1.0]}, {"a\x07": [1.0]}],
    "prefill": [[], "none", {"tokens": 1}],
    "prefill.ms": [1.0, [None]],
    "memory": [None, {}],
    "thermal": [None, [0], [{"at_ms": 0}]],
    "thermal.1.status": [7, -1, 1.5],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in ILLEGAL.items() for value in values])
def test_an_illegal_value_is_refused_by_its_key(path, value):
    with pytest.raises(ProfileReportError) as caught:
        parse(changed(path, value))
    assert path.split(".")[0] in caught.value.what
    assert caught.value.fix
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_in_values_and_in_files(value):
    with pytest.raises(ProfileReportError, match="load_ms"):
        parse(changed("load_ms", value))
    with pytest.raises(ProfileReportError, match="no JSON number"):
        decode(json.dumps(changed("load_ms", value)).encode())


def test_a_number_too_large_for_a_float_is_refused():
    text = GOLDEN.read_text(encoding="utf-8")
    for number in ("1e999", "9" * 5000):
        with pytest.raises(ProfileReportError):
            decode(text.replace("12.25", number).encode())


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("devise", "device"),
        ("device.modell", "model"),
        ("memory.peak", "peak_mb"),
        ("decode.warm_up", "warmup"),
        ("prefill.token", "tokens"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(path, nearest):
    with pytest.raises(ProfileReportError, match=f"unknown key '{path}' .*did you mean '{nearest}'"):
        parse(changed(path, 1))


@pytest.mark.parametrize("path", ["runtime", "thermal", "prefill", "device.soc", "decode.warmup", "memory.before_mb"])
def test_a_missing_key_is_named(path):
    report = plain()
    *parents, last = path.split(".")
    del (report[parents[0]] if parents else report)[last]
    with pytest.raises(ProfileReportError, match=f"lacks the key '{path}'"):
        parse(report)


def test_another_schema_says_what_is_read():
    for schema in ("edgelm-profile/2", None, 1):
        with pytest.raises(ProfileReportError, match="has the schema") as caught:
            parse(changed("schema", schema))
        assert caught.value.allowed == "edgelm-profile/1"


def test_a_report_without_a_timed_token_is_refused():
    for times in ({}, {"step": []}):
        with pytest.raises(ProfileReportError, match="no timed token"):
            parse(changed("decode.signature_ms", times))


def test_thermal_readings_are_in_order():
    with pytest.raises(ProfileReportError, match="order of their time"):
        parse(changed("thermal", [{"at_ms": 5, "status": 0}, {"at_ms": 1, "status": 0}]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
        (b"[]", "is no JSON object"),
        (b"3", "is no JSON object"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"schema": "edgelm-profile/1", "schema": "edgelm-profile/1"}', "'schema' is there twice"),
        (b" " * (MAX_FILE_BYTES + 1), "too large"),
    ],
)
def test_files_that_are_no_report_are_refused(tmp_path, content, words):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ProfileReportError, match=words) as caught:
        read(path)
    assert str(path) in caught.value.what


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ProfileReportError, match="cannot be read"):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_any_json_is_a_report_or_one_error(value):
    with pytest.raises(ProfileReportError):
        parse(value)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Where every value of a report is."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [path] * bool(path) + [place for key, inner in pairs for place in places(inner, (*path, key))]


@given(st.sampled_from(places(plain())), JSON)
def test_a_report_with_one_value_replaced_is_read_or_one_error(place, value):
    report = plain()
    inner = report
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        read_back = parse(copy.deepcopy(report))
    except ProfileReportError as error:
        assert "\x1b" not in str(error)
        return
    assert parse(json.loads(read_back.encode())) == read_back


TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(TIMES)
def test_statistics_agree_with_the_standard_library(times):
    (one,) = parse(changed("decode.signature_ms", {"step": times})).statistics()
    assert one.median == pytest.approx(statistics.median(times))
    assert one.best <= one.median <= one.p90 <= one.p95 <= max(times)
    if statistics.fmean(times):  # of the smallest numbers it can be 0 where the sum is not
        assert one.tokens_per_second == pytest.approx(1e3 / statistics.fmean(times))


def test_the_report_says_no_more_than_its_types():
    assert set(plain()) - {"schema"} == set(ProfileReport.__annotations__)
    assert plain()["schema"] == profile_report.SCHEMA
