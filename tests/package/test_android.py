from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import packed_models
import pytest

from edgelm.device.cache import cache_folder
from edgelm.errors import ArtifactError
from edgelm.package import android, golden, output
from edgelm.package.subject import Subject, open_subject

STUBS = Path(__file__).parent / "android_stubs"
DEMO = Path(__file__).parents[2] / "android_demo"
HOSTILE = 'a*/ \\u002a/ class Evil {} "); ../../x @see <b> \n${evil} ключ'

needs_javac = pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: javac is not on the PATH")

KINDS: dict[str, Callable[[Path], Path]] = {
    "recurrent": lambda folder: packed_models.tiny(folder, "recurrent"),
    "transformer": lambda folder: packed_models.tiny(folder, "transformer"),
    "graph": lambda folder: packed_models.graph(folder, last_only=False),
    "graph-of-the-last": lambda folder: packed_models.graph(folder, last_only=True, tokenizer=True),
    "hostile": lambda folder: packed_models.tiny(folder, "recurrent", name=HOSTILE, recipe={"name": HOSTILE, "description": HOSTILE}),
}


def subject_of(folder: Path, kind: str, **names: str) -> Subject:
    return open_subject(KINDS[kind](folder / kind), **names)


def module(subject: Subject, engine: str | None = None) -> dict[str, bytes]:
    return android.files(subject, golden.compute(subject.artifact, "ai-edge-litert"), engine)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    output.write(folder, files, "android", force=False)
    return folder


def javac(output_folder: Path, sources: list[Path], class_path: Path | None = None) -> None:
    """Compiles as Java 8 with every warning an error; `options`, `processing` and `classfile` complain of the JDK and of the platform."""
    lint = "-Xlint:all,-options,-processing,-classfile"
    command = ["javac", "--release", "8", lint, "-Werror", "-d", output_folder, "-cp", class_path or ""]
    done = subprocess.run([*command, *sources], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_has_everything_gradle_needs(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "recurrent", name="keyboard", package_name="com.example.lm")
    files = module(subject)
    assert files["src/main/assets/keyboard.tflite"] == subject.artifact.tflite
    assert {name for name in files if "dev/edgelm" not in name} == {
        "README.md",
        "build.gradle.kts",
        "consumer-rules.pro",
        "src/main/AndroidManifest.xml",
        "src/main/assets/keyboard.tflite",
        "src/main/java/com/example/lm/Keyboard.java",
        "src/androidTest/java/com/example/lm/KeyboardGolden.java",
        "src/androidTest/java/com/example/lm/KeyboardGoldenTest.java",
    }
    core = {path.name for path in (DEMO / "core/src/main/java/dev/edgelm/core").glob("*.java")}
    assert {name.rsplit("/", 1)[-1] for name in files if name.startswith("src/main/java/dev/edgelm/core/")} == core
    assert "src/main/java/dev/edgelm/litert/LiteRtRunner.java" in files
    assert not [name for name, data in files.items() if b"@PACKAGE@" in data or b"edgelm.demo" in data]


def test_the_build_file_says_what_the_app_needs(tmp_path: Path) -> None:
    build = module(subject_of(tmp_path, "recurrent", name="keyboard", package_name="com.example.lm"))["build.gradle.kts"].decode()
    for line in (
        'namespace = "com.example.lm"',
        "minSdk = 26",
        'abiFilters += listOf("arm64-v8a", "x86_64")',
        'androidResources { noCompress += "tflite" }',
        'implementation("com.google.ai.edge.litert:litert:2.1.0")',
        'consumerProguardFiles("consumer-rules.pro")',
    ):
        assert line in build
    assert build.count("{") == build.count("}")


def test_versions_are_those_of_the_demo(tmp_path: Path) -> None:
    catalog = (DEMO / "gradle/libs.versions.toml").read_text()
    versions = dict(re.findall(r'^(\w+) = "([^"]+)"', catalog, re.MULTILINE))
    assert (versions["compileSdk"], versions["minSdk"]) == (str(android.COMPILE_SDK), str(android.MIN_SDK))
    assert versions["agp"] == android.GRADLE_PLUGIN
    files = module(subject_of(tmp_path, "recurrent"))
    assert f'implementation("com.google.ai.edge.litert:litert:{versions["litert"]}")' in files["build.gradle.kts"].decode()
    assert f"junit:junit:{versions['junit']}" in files["build.gradle.kts"].decode()


def test_the_runtime_is_the_profile_s(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "recurrent", target="android-tflite-2.14")
    files = android.files(subject, golden.compute(subject.artifact, "ai-edge-litert"))
    assert 'implementation("org.tensorflow:tensorflow-lite:2.14.0")' in files["build.gradle.kts"].decode()
    assert b'VERSION = "2.14.0"' in files["src/main/java/dev/edgelm/litert/LiteRtRunner.java"]


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (module(open_subject(packed_models.tiny(tmp_path / n / "model"))) for n in ("a", "b"))
    assert first == second


def test_a_second_model_uses_the_first_one_s_engine(tmp_path: Path) -> None:
    files = module(subject_of(tmp_path, "transformer"), engine=":keyboard")
    assert not [name for name in files if "dev/edgelm" in name]
    assert 'api(project(":keyboard"))' in files["build.gradle.kts"].decode()
    assert "litert:litert" not in files["build.gradle.kts"].decode()


def test_hostile_names_stay_inside_and_become_legal(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "hostile")
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", subject.name)
    for name, data in module(subject).items():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name)
        assert ".." not in name
        if name.endswith((".kts", ".pro", ".xml")):
            assert b"Evil" not in data or b"// Written by" in data.splitlines()[0]


@pytest.mark.parametrize("change", [{"recipe": None}, {"recipe": []}, {"tools": {}}, {"parameters": "many"}, {"parameters": [1]}])
def test_a_manifest_that_lacks_what_edgelm_writes_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="lacks what edgelm writes"):
        open_subject(packed_models.tiny(tmp_path / "model", **change))


@pytest.mark.slow
@needs_javac
def test_every_kind_of_module_compiles_as_java_8(tmp_path: Path) -> None:
    sources = [*STUBS.rglob("*.java"), *(DEMO / "litert-stubs").rglob("*.java")]
    for kind in KINDS:
        engine = None if kind == "recurrent" else ":recurrent"
        sources += written(tmp_path / f"{kind}-module", module(subject_of(tmp_path, kind), engine)).rglob("*.java")
    javac(tmp_path / "classes", sources)


@pytest.mark.slow
@needs_javac
def test_a_module_compiles_against_the_classes_of_android_6(tmp_path: Path) -> None:
    platform = cache_folder() / "android-build-tools/usr/share/java/com.android.android-23.jar"
    if not platform.is_file():
        pytest.skip("needs Debian's android-23.jar, which make android fetches")
    sources = [path for path in STUBS.rglob("*.java") if "android" not in path.relative_to(STUBS).parts]
    sources += (DEMO / "litert-stubs").rglob("*.java")
    sources += written(tmp_path / "module", module(subject_of(tmp_path, "recurrent"))).rglob("*.java")
    javac(tmp_path / "classes", sources, platform)
