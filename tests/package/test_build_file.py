from __future__ import annotations

from pathlib import Path

import pytest

from edgelm.errors import ArtifactError
from edgelm.package import android, build_file

ARM, BOTH = 'ndk { abiFilters += listOf("arm64-v8a", "x86_64") }', "arm64-v8a, x86_64"


def verdicts(tmp_path: Path, text: str) -> tuple[bool | None, bool | None]:
    path = tmp_path / "build.gradle.kts"
    path.write_text(text, encoding="utf-8")
    no_compress, abis = build_file.checks(path)
    for check in (no_compress, abis):
        assert bool(check.fix) is (check.passed is False)
    return no_compress.passed, abis.passed


@pytest.mark.parametrize(
    "line",
    [
        'androidResources { noCompress += "tflite" }',
        'androidResources.noCompress.add(".tflite")',
        'androidResources {\n    noCompress += listOf(\n        "bin",\n        "tflite",\n    )\n}',
        "aaptOptions { noCompress 'tflite', 'lite' }",
        'aaptOptions { noCompress "lite",\n    "tflite" }',
        'noCompress += ""',
    ],
)
def test_no_compress_is_found_however_it_is_written(tmp_path: Path, line: str) -> None:
    assert verdicts(tmp_path, f"android {{\n    {line}\n}}\n") == (True, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '// androidResources { noCompress += "tflite" }',
        '/* androidResources {\n noCompress += "tflite" } */',
        'androidResources { noCompress += "bin" }\nval other = "tflite"',
        'androidResources { noCompress += "bin" }; implementation("tflite")',
        'val url = "https://example.com" // noCompress += "tflite"',
        'myNoCompressed("tflite")',
    ],
)
def test_comments_and_other_statements_do_not_count(tmp_path: Path, text: str) -> None:
    assert verdicts(tmp_path, text) == (False, True)


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        (ARM, True),
        ("abiFilters 'armeabi-v7a', 'x86'", False),
        ('abiFilters("x86_64")', False),
        ('abiFilters.addAll(setOf("arm64-v8a"))', True),
    ],
)
def test_abi_filters_must_hold_phones(tmp_path: Path, line: str, passed: bool) -> None:
    assert verdicts(tmp_path, f'noCompress += "tflite"\n{line}\n') == (True, passed)


def test_the_lines_edgelm_prints_pass_its_own_check(tmp_path: Path) -> None:
    assert verdicts(tmp_path, android.app_lines('    implementation(project(":keyboard"))')) == (True, True)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "build.gradle"
    with pytest.raises(ArtifactError, match="No such file"):
        build_file.checks(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="UTF-8"):
        build_file.checks(path)
    path.write_bytes(b" " * (1 << 20) + b" ")
    with pytest.raises(ArtifactError, match="over 1 MiB"):
        build_file.checks(path)
