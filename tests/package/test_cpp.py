from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ai_edge_litert
import packed_models
import pytest

from edgelm import artifact
from edgelm.errors import TokenizerError, UnsupportedModelError
from edgelm.package import cpp, output
from edgelm.package.subject import open_subject
from edgelm.runtime import predict
from edgelm.runtime.sampling import GREEDY
from edgelm.runtime.session import open_session
from edgelm.text.tokenizer import Tokenizer

LITERT = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
NATIVE = Path(cpp.__file__).parents[1] / "native"


def python_says(folder: Path, tokens: int) -> str:
    loaded = artifact.load(folder)
    assert loaded.tokenizer is not None
    tokenizer = Tokenizer.from_json(loaded.tokenizer)
    return "".join(predict.complete(open_session(loaded.tflite), tokenizer, cpp.PROMPT, tokens, GREEDY))


def example(folder: Path, out: Path) -> Path:
    output.write(out, cpp.files(open_subject(folder)), "cpp", force=False)
    return out


def says(program: Path, model: Path, *arguments: str) -> str:
    done = subprocess.run([program, model, *arguments], capture_output=True, timeout=60, check=True)
    return done.stdout.decode("utf-8").removesuffix("\n")


def test_the_example_holds_the_session_library_and_nothing_of_the_runner(tmp_path: Path) -> None:
    files = cpp.files(open_subject(packed_models.tiny(tmp_path / "model", "transformer")))
    library = {name.removeprefix("edgelm/"): data for name, data in files.items() if name.startswith("edgelm/")}
    assert {"edgelm_lm.h", "edgelm_lm.cpp", "litert_c.h"} <= library.keys()
    assert not [name for name in library if "runner" in name or name.endswith(".c")]
    assert all(data == (NATIVE / name).read_bytes() for name, data in library.items())
    listed = re.findall(r"edgelm/(\w+\.cpp)", files["CMakeLists.txt"].decode())
    own = re.search(r"add_library\(edgelm_lm STATIC([^)]*)\)", (NATIVE / "CMakeLists.txt").read_text())
    assert own is not None
    assert listed == sorted(name for name in library if name.endswith(".cpp")) == sorted(own.group(1).split())
    assert files == cpp.files(open_subject(packed_models.tiny(tmp_path / "again" / "model", "transformer")))


def test_graphs_and_models_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="converted as it is"):
        cpp.files(open_subject(packed_models.graph(tmp_path / "graph", last_only=False)))
    loaded = open_subject(packed_models.tiny(tmp_path / "model"))
    silent = artifact.Artifact(loaded.artifact.path, loaded.artifact.tflite, loaded.artifact.manifest, None)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        cpp.files(type(loaded)(silent, loaded.facts, loaded.outline, loaded.profile, loaded.name, loaded.java_package))


def test_a_model_with_4_bit_blocks_names_the_litert_that_loads_them(tmp_path: Path) -> None:
    blocks = open_subject(packed_models.bundled("keyboard-lstm", tmp_path / "model", "int4-block32"))
    rows = open_subject(packed_models.bundled("keyboard-lstm", tmp_path / "rows", "int4"))
    assert "pip install --quiet --no-deps --target ./litert ai-edge-litert==2.1.2\n" in cpp.commands(blocks)
    assert "pip install" not in cpp.commands(rows)
    for subject, version in ((blocks, "2.1.2"), (rows, "2.1.0")):
        assert f"com.google.ai.edge.litert:litert:{version}" in cpp.files(subject)["README.md"].decode()


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="needs cmake and g++")
@pytest.mark.skipif(not LITERT.is_file(), reason="needs a Linux wheel of ai-edge-litert, which has libLiteRt.so")
def test_both_bundled_models_say_in_cpp_what_python_says(tmp_path: Path) -> None:
    keyboard = packed_models.bundled("keyboard-lstm", tmp_path / "keyboard")
    out = example(keyboard, tmp_path / "keyboard example")
    unoptimised = "-DCMAKE_BUILD_TYPE=Debug"  # compiles in half the time; the kernels are LiteRT's
    for step in (["-S", out, "-B", out / "build", f"-DLITERT_LIBRARY={LITERT}", unoptimised], ["--build", out / "build"]):
        subprocess.run(["cmake", *step], check=True, timeout=300, capture_output=True)
    program, model = out / "build" / "keyboard-lstm_example", out / "keyboard-lstm.tflite"
    text = says(program, model)
    assert text == python_says(keyboard, cpp.TOKENS)
    assert text in (out / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) > 3
    failed = subprocess.run([program, out / "main.cpp"], capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert "error: " in failed.stderr

    chat = packed_models.bundled("chat-transformer", tmp_path / "chat")
    other = example(chat, tmp_path / "chat example")
    objects = list((out / "build").rglob("edgelm/*.o"))  # the same library: only main.cpp differs
    flags = ["-std=c++17", f"-I{other / 'edgelm'}", "-o", other / "example", other / "main.cpp", *objects]
    subprocess.run(["g++", *flags, LITERT, f"-Wl,-rpath,{LITERT.parent}"], check=True, timeout=300)
    for tokens in (cpp.TOKENS, 200):  # from the first rung of the ladder into the second
        for cache in ((), (str(other / "cache"),), (str(other / "cache"),)):  # none, made, mapped
            assert says(other / "example", other / "chat-transformer.tflite", str(tokens), *cache) == python_says(chat, tokens)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="needs cmake and g++")
@pytest.mark.skipif(not LITERT.is_file(), reason="needs a Linux wheel of ai-edge-litert, which has libLiteRt.so")
def test_the_printed_commands_run_a_model_with_4_bit_blocks(tmp_path: Path) -> None:
    keyboard = packed_models.bundled("keyboard-lstm", tmp_path / "keyboard", "int4-block32")
    out = example(keyboard, tmp_path / "its example")
    lines = cpp.commands(open_subject(keyboard), out).replace("pip install", f"{sys.executable} -m pip install")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-e", "-c", lines], capture_output=True, timeout=300, check=True, env={**os.environ, "PATH": path})
    assert done.stdout.decode("utf-8").splitlines()[-1] == python_says(keyboard, cpp.TOKENS).splitlines()[-1]
