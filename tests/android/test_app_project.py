"""The Gradle project, manifest, resources and sources of the app agree with one another, and the checks notice when they don't."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from app_tools import DEMO, project_checks

MAIN = "app/src/main"
STRINGS = f"{MAIN}/res/values/strings.xml"
MANIFEST = f"{MAIN}/AndroidManifest.xml"
CATALOG = "gradle/libs.versions.toml"
WRAPPER = "gradle/wrapper/gradle-wrapper.properties"

MISTAKES = [
    ("app/build.gradle.kts", "libs.litert)", "libs.litert.gpu)", "alias libs.litert.gpu is not in the version catalog"),
    ("app/build.gradle.kts", "implementation(libs.litert)", "", "catalog entry litert is never used"),
    ("app/build.gradle.kts", "(libs.litert)", '("com.google.ai.edge.litert:litert:2.1.0")', "build.gradle.kts has a version of its own"),
    (
        "app/build.gradle.kts",
        'versionName = "0.1.0"',
        'versionName = "0.2.0"',
        "versionName, the string version and edgelm's own version differ",
    ),
    ("app/build.gradle.kts", 'project(":core")', 'project(":engine")', "module :engine is used, but not included"),
    (CATALOG, 'version.ref = "agp"', 'version.ref = "android"', "version android is referred to, but not defined"),
    (CATALOG, 'litert = "2.1.0"', 'litert = "2.3.0"', "LiteRtRunner.VERSION is not the catalog's litert 2.3.0"),
    (CATALOG, 'targetSdk = "35"', 'targetSdk = "36"', "minSdk <= targetSdk <= compileSdk does not hold: [26, 36, 35]"),
    (CATALOG, 'compileSdk = "35"', 'compileSdk = "99"', "does not know API 99"),
    (WRAPPER, "gradle-8.13-bin", "gradle-8.9-bin", "the wrapper's Gradle is not the one"),
    (WRAPPER, "distributionSha256Sum=20", "distributionSha256Sum=", "the wrapper does not pin the SHA-256 of Gradle"),
    ("build.gradle.kts", 'gradleVersion = "8.13"', 'gradleVersion = "8.14"', "the wrapper task makes another wrapper"),
    ("settings.gradle.kts", '":core"', '":kernel"', "module :kernel has no build.gradle.kts"),
    (MANIFEST, '".ModelsActivity"', '".ModelActivity"', "manifest: .ModelActivity is no Activity"),
    (MANIFEST, '".ModelsActivity"', '".ModelActivity"', "manifest: ModelsActivity is not declared"),
    (MANIFEST, 'android:permission="android.permission.DUMP"', "", "manifest: .BenchmarkActivity is exported without a permission"),
    (MANIFEST, "@string/models_title", "@string/model_title", "resource @string/model_title does not exist"),
    (STRINGS, 'name="stop"', 'name="halt"', "resource @string/halt is never used"),
    (STRINGS, "%1$d of %2$d tokens", "%1$d tokens", "string benchmark_progress has 1 arguments, 2 are given"),
    (f"{MAIN}/res/layout/activity_complete.xml", '"@+id/seed"', '"@+id/other"', "resource @id/seed does not exist"),
    (f"{MAIN}/res/layout/activity_complete.xml", 'labelFor="@+id/prompt"', 'tag="x"', "activity_complete.xml: field prompt has no label"),
    (
        f"{MAIN}/res/layout/activity_complete.xml",
        '"@string/stop"',
        '"Stop"',
        "activity_complete.xml: stop has a text that is no string resource",
    ),
    (f"{MAIN}/res/layout/activity_benchmark.xml", 'contentDescription="@string', 'tag="@string', "progress has no content description"),
    (
        f"{MAIN}/res/values/styles.xml",
        '<item name="android:minHeight">@dimen/touch',
        '<item name="android:textSize">12dp',
        "a text size in dp",
    ),
    (
        f"{MAIN}/java/dev/edgelm/demo/platform/Platform.java",
        "SDK_INT >= 29",
        "SDK_INT >= 26",
        "Platform.java: Api29 is called from API 26 on",
    ),
    (f"{MAIN}/java/dev/edgelm/demo/Numbers.java", "Math.rint", "Api29.rint", "Numbers.java: calls a class of one API level past Platform"),
    (
        f"{MAIN}/java/dev/edgelm/demo/Numbers.java",
        "package dev.edgelm.demo;",
        "package dev.edgelm;",
        "Numbers.java: its package is not its folder's",
    ),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project to make mistakes in."""
    return Path(shutil.copytree(DEMO, tmp_path / "android_demo", ignore=shutil.ignore_patterns("build", ".gradle", "tools", "jvm")))


def test_the_project_has_no_problems() -> None:
    assert project_checks.all_problems() == []


@pytest.mark.parametrize(("file", "right", "wrong", "problem"), MISTAKES, ids=[mistake[3][:60] for mistake in MISTAKES])
def test_mistakes_are_noticed(project: Path, file: str, right: str, wrong: str, problem: str) -> None:
    text = (project / file).read_text(encoding="utf-8")
    assert right in text
    (project / file).write_text(text.replace(right, wrong), encoding="utf-8")
    assert any(problem in found for found in project_checks.all_problems(project))


def test_a_translation_has_to_be_whole(project: Path) -> None:
    folder = project / MAIN / "res/values-de"
    folder.mkdir()
    text = (project / STRINGS).read_text(encoding="utf-8").replace("%1$d of %2$d", "%1$d von %1$d")
    lines = [line for line in text.splitlines() if 'name="save"' not in line]
    (folder / "strings.xml").write_text("\n".join(lines), encoding="utf-8")
    problems = project_checks.strings(project)
    assert problems == ["values-de: string save is missing", "values-de: string benchmark_progress has other arguments"]
