"""The Java of a generated module really runs: engine, facade and golden vectors on this host's JVM and LiteRT library, by JNA."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import ai_edge_litert
import packed_models
import pytest
from android import jvm_engine

from edgelm import artifact
from edgelm.package import android, golden, output
from edgelm.package.subject import Subject, open_subject
from edgelm.runtime import predict
from edgelm.runtime.sampling import GREEDY
from edgelm.runtime.session import open_session
from edgelm.text.tokenizer import Tokenizer

STUBS = Path(__file__).parent / "android_stubs"
DEMO = Path(__file__).parents[2] / "android_demo"
LITERT = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"

MAIN = """\
package @PACKAGE@;

import dev.edgelm.core.*;
import dev.edgelm.jvm.LiteRtRunner;
import java.io.File;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;

public final class Run {
    public static void main(String[] words) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        File file = new File(words[0]);
        byte[] bytes = Files.readAllBytes(file.toPath());
        Artifact artifact = Artifact.open((ByteBuffer) ByteBuffer.allocateDirect(bytes.length).put(bytes).rewind());
        if (!artifact.sha256().equals(@CLASS@.SHA256)) {
            throw new AssertionError("another file");
        }
        try (@CLASS@ model = new @CLASS@(artifact, new LiteRtRunner(file))) {
            out.println("compared " + @CLASS@Golden.check(model));@TEXTS@
        }
    }@PRINT@
}
"""

TEXTS = """
            print(out, model, words[1]);
            out.print("complete ");
            model.complete(words[1], 16, SamplingSettings.GREEDY, text -> { out.print(text); return true; });
            out.println();
            print(out, model, words[1] + " ");
            model.step(3);
            print(out, model, words[1]);"""

PRINT = """

    private static void print(PrintStream out, @CLASS@ model, String text) {
        out.print("suggest");
        for (Suggestion word : model.suggest(text, 3)) {
            out.print(" " + word.text());
        }
        out.println();
    }"""


MODELS: dict[str, Callable[[Path], Path]] = {
    "keyboard-lstm": lambda folder: packed_models.bundled("keyboard-lstm", folder),
    "chat-transformer": lambda folder: packed_models.bundled("chat-transformer", folder),
    "graph": lambda folder: packed_models.graph(folder, last_only=False, tokenizer=True),
    "graph-of-the-last": lambda folder: packed_models.graph(folder, last_only=True),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Subject]]:
    """A module for each model, compiled together with a `main` each: the folder of classes, and the subjects by name."""
    if shutil.which("javac") is None or not LITERT.is_file():
        pytest.skip("needs a JDK and a Linux wheel of ai-edge-litert")
    folder = tmp_path_factory.mktemp("modules")
    jna = jvm_engine.packages() / "usr/share/java/jna.jar"
    subjects = {name: open_subject(make(folder / name)) for name, make in MODELS.items()}
    sources = [*STUBS.rglob("*.java"), *(DEMO / "litert-stubs").rglob("*.java"), *(DEMO / "jvm/src/main/java").rglob("*.java")]
    for name, subject in subjects.items():
        engine = None if name == "keyboard-lstm" else ":keyboard-lstm"
        vectors = golden.compute(subject.artifact, "ai-edge-litert")
        output.write(folder / f"{name}-module", android.files(subject, vectors, engine), "android", force=False)
        sources += [write_main(folder / name / "Run.java", subject), *(folder / f"{name}-module").rglob("*.java")]
    command = ["javac", "--release", "8", "-nowarn", "-Xlint:-options", "-d", folder / "classes", "-cp", jna, *sources]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "classes", subjects


def write_main(path: Path, subject: Subject) -> Path:
    """A `main` for a model: only those with sessions write texts."""
    texts, printing = (TEXTS, PRINT) if subject.family != "graph" else ("", "")
    main = MAIN.replace("@TEXTS@", texts).replace("@PRINT@", printing)
    path.write_text(main.replace("@PACKAGE@", subject.java_package).replace("@CLASS@", subject.class_name))
    return path


def run(classes: Path, subject: Subject, text: str, *first: Path) -> subprocess.CompletedProcess[str]:
    path = ":".join(map(str, [*first, classes, jvm_engine.packages() / "usr/share/java/jna.jar"]))
    properties = [f"-Djava.library.path={jvm_engine.jni_folder()}", "-Djna.nosys=false", f"-Dedgelm.litert.library={LITERT}"]
    command = ["java", "-cp", path, *properties, f"{subject.java_package}.Run", subject.artifact.path / artifact.MODEL, text]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8")


def comparisons(subject: Subject) -> int:
    vectors = golden.compute(subject.artifact, "ai-edge-litert")
    assert len(vectors.encoded) == (len(golden.TEXTS) if subject.artifact.tokenizer else 0)
    return len(vectors.encoded) + sum(len(each.choices) for each in vectors.continuations)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keyboard-lstm", "chat-transformer"])
def test_the_golden_vectors_and_the_facade_equal_python(modules: tuple[Path, dict[str, Subject]], name: str) -> None:
    classes, subjects = modules
    subject = subjects[name]
    compared = comparisons(subject)
    assert compared > 15
    assert subject.artifact.tokenizer is not None
    tokenizer = Tokenizer.from_json(subject.artifact.tokenizer)
    session = open_session(subject.artifact.tflite)
    suggestions = " ".join(["suggest", *(word.text for word in predict.suggest(session, tokenizer, "see you", 3))])
    text = "".join(predict.complete(session, tokenizer, "see you", 16, GREEDY))
    done = run(classes, subject, "see you")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"compared {compared}\n{suggestions}\ncomplete {text}\n{suggestions}\n{suggestions}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph", "graph-of-the-last"])
def test_graphs_that_were_converted_as_they_are_run_too(modules: tuple[Path, dict[str, Subject]], name: str) -> None:
    classes, subjects = modules
    compared = comparisons(subjects[name])
    assert compared > 10
    done = run(classes, subjects[name], "")
    assert (done.returncode, done.stdout) == (0, f"compared {compared}\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("table", "message"), [("IDS", "token ids of"), ("CHOICES", "in Python")])
def test_the_golden_test_fails_when_device_and_python_differ(
    modules: tuple[Path, dict[str, Subject]], tmp_path: Path, table: str, message: str
) -> None:
    classes, subjects = modules
    subject = subjects["keyboard-lstm"]
    name = f"{subject.class_name}Golden"
    (source,) = (classes.parent / "keyboard-lstm-module").rglob(f"{name}.java")
    head, _, tail = source.read_text().partition(f"{table} = {{\n        {{")
    number, _, rest = tail.partition(",")
    (tmp_path / f"{name}.java").write_text(f"{head}{table} = {{\n        {{{int(number) + 1},{rest}")
    command = ["javac", "-Xlint:-options", "--release", "8", "-d", tmp_path, "-cp", classes, tmp_path / f"{name}.java"]
    subprocess.run(command, check=True, timeout=120)
    done = run(classes, subject, "see you", tmp_path)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert message in done.stderr
