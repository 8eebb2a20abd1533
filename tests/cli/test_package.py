"""`edgelm package`, as a user runs it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from package.elf_files import PAGE, SMALL_PAGES, elf, write_archive
from package.packed_models import graph, tiny

from edgelm import artifact
from edgelm.cli import main

WRITTEN = """\
written: OUT (Gradle module; its Java is proven on a JVM, its Gradle build needs Google's Maven)

settings.gradle.kts:
    include(":keyboard")
    project(":keyboard").projectDir = file("OUT")

app/build.gradle.kts:
    android {
        defaultConfig { ndk { abiFilters += listOf("arm64-v8a", "x86_64") } }
        androidResources { noCompress += "tflite" }
    }
    dependencies {
        implementation(project(":keyboard"))
    }

in the app, on a background thread:
    try (Keyboard model = Keyboard.open(context, 1)) {
        List<Suggestion> words = model.suggest("see you", 3);
    }
"""


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgelm", "package", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("artifacts") / "lm")


def test_the_module_is_written_and_its_lines_are_printed(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "keyboard"
    done = run(model, "--android", out, "--package-name", "com.example.lm", "--name", "keyboard")
    assert (done.code, done.out[done.out.index("written:") :]) == (0, WRITTEN.replace("OUT", str(out)))
    assert "PASS" in done.out
    assert (out / "src/main/java/com/example/lm/Keyboard.java").is_file()
    again = run(model, "--android", out, "--package-name", "com.example.lm", "--name", "keyboard")
    assert again.code == 0


def test_several_packages_at_once(run: Run, model: Path, tmp_path: Path) -> None:
    done = run(model, "--android", tmp_path / "a", "--into", tmp_path / "assets", "--cpp", tmp_path / "c", "--ios", tmp_path / "i")
    assert done.code == 0
    assert (tmp_path / "assets" / "lm.tflite").read_bytes() == (model / artifact.MODEL).read_bytes()
    assert f"written: {tmp_path / 'i'} (not built" in done.out
    assert f"cmake --build {tmp_path / 'c'}/build" in done.out
    assert 'implementation("com.google.ai.edge.litert:litert:2.1.0")' in done.out


@pytest.mark.parametrize(
    ("arguments", "message", "fix"),
    [
        (["--name", "../evil"], "--name '../evil' cannot name", "--name evil"),
        (["--package-name", "com.class"], "its part 'class' is no Java name", "--package-name com.example.lm"),
        (["--engine", "keyboard"], "--engine 'keyboard' is no Gradle path", ":keyboard"),
        (["--target", "android-arm46"], "did you mean 'android-arm64'?", "edgelm profiles"),
    ],
)
def test_wrong_names_are_one_clear_error_and_write_nothing(
    run: Run, model: Path, tmp_path: Path, arguments: list[str], message: str, fix: str
) -> None:
    done = run(model, "--android", tmp_path / "out", *arguments)
    assert done.code == 1
    assert message in done.err
    assert fix in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_one_place_is_taken(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = run(model, "--android", tmp_path / "out", "--ios", tmp_path / "mine")
    assert done.code == 1
    assert "holds something else than an earlier --ios package" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_written_when_one_package_cannot_be_made(run: Run, tmp_path: Path) -> None:
    model = graph(tmp_path / "graph", last_only=False)
    done = run(model, "--android", tmp_path / "a", "--cpp", tmp_path / "c", "--into", tmp_path / "assets")
    assert done.code == 1
    assert "converted as it is" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


@pytest.mark.parametrize("second", ["same", "same/inside", "same/../same"])
def test_one_folder_cannot_be_two_packages(run: Run, model: Path, tmp_path: Path, second: str) -> None:
    done = run(model, "--android", tmp_path / "same", "--cpp", tmp_path / second)
    assert (done.code, list(tmp_path.iterdir())) == (1, [])
    assert "separate folders" in done.err


def test_asking_for_nothing_is_a_usage_error_and_no_artifact_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    usage = run(model)
    assert usage.code == 2
    assert "--android" in usage.err
    missing = run(tmp_path / "nowhere", "--android", tmp_path / "out")
    assert missing.code == 1
    assert "no artifact at" in missing.err
    (tmp_path / "plain.tflite").write_bytes(b"no model")
    assert run(tmp_path / "plain.tflite", "--android", tmp_path / "out").code == 1


def test_a_built_app_is_checked(run: Run, model: Path, tmp_path: Path) -> None:
    tflite = (model / artifact.MODEL).read_bytes()
    files = {"assets/lm.tflite": tflite, "lib/arm64-v8a/libLiteRt.so": elf(), "lib/x86_64/libLiteRt.so": elf("x86_64")}
    good = write_archive(tmp_path / "good.apk", files, align=PAGE)
    (tmp_path / "build.gradle.kts").write_text('noCompress += "tflite"\n')
    done = run(model, "--apk", good, "--build-file", tmp_path / "build.gradle.kts")
    assert done.code == 0, done.out
    assert done.out.count("PASS") == 13  # twelve checks and the sum
    bad = write_archive(
        tmp_path / "bad.apk", files | {"lib/arm64-v8a/libold.so": elf(segments=SMALL_PAGES)}, compressed=["assets/lm.tflite"]
    )
    (tmp_path / "build.gradle.kts").write_text("// nothing\n")
    done = run(model, "--apk", bad, "--build-file", tmp_path / "build.gradle.kts", "--details")
    assert done.code == 3
    for name in ("noCompress", "model uncompressed", "16 KB pages: segments", "16 KB pages: place in the APK"):
        assert f"FAIL {name}:" in done.out
    assert done.out.count("next: ") == 4
    assert "Native libraries" in done.out


def test_native_libraries_alone_are_checked_and_json_is_the_report(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "libold.so").write_bytes(elf(segments=SMALL_PAGES))
    aar = write_archive(tmp_path / "litert.aar", {"jni/arm64-v8a/libLiteRt.so": elf()})
    done = run(model, "--native-libs", tmp_path / "libold.so", "--native-libs", aar, "--json")
    report = json.loads(done.out)
    (failed,) = [check for check in report["checks"] if check["passed"] is False]
    assert (done.code, failed["name"], failed["measured"]) == (3, "16 KB pages: segments", "1 of 2")


def test_a_damaged_model_inside_the_artifact_is_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    file = tmp_path / "copy" / artifact.MODEL
    data = bytearray(file.read_bytes())
    data[4:40] = b"\xff" * 36
    file.write_bytes(data)
    done = run(tmp_path / "copy", "--android", tmp_path / "out")
    assert done.code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--android", "--cpp", "--ios", "--into"])
@pytest.mark.parametrize("place", ["a" * 300, "circle", "file/out"])
def test_a_place_that_cannot_be_is_one_clear_error(run: Run, model: Path, tmp_path: Path, option: str, place: str) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").write_text("")
    done = run(model, option, tmp_path / place)
    assert done.code in (1, 2)  # click itself refuses a circle
    assert "cannot be" in done.err or "Error: Invalid value" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]
