from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import ArtifactError
from edgelm.package import names, templates


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_any_text_becomes_names_that_java_gradle_and_file_systems_take(text: str) -> None:
    name = names.plain_name(text)
    assert names.checked_name(name) == name
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", names.class_name(name))
    assert names.checked_package(names.package_for(name))


@pytest.mark.parametrize(
    ("text", "name", "class_name", "package"),
    [
        ("keyboard-lstm", "keyboard-lstm", "KeyboardLstm", "com.example.keyboard_lstm"),
        ("../../etc/passwd", "etc-passwd", "EtcPasswd", "com.example.etc_passwd"),
        ("class", "class", "Class", "com.example.class_"),
        ("String", "string", "StringModel", "com.example.string"),
        ("模型", "model", "Model", "com.example.model"),
        ("Tastatur für Ähren", "tastatur-fur-ahren", "TastaturFurAhren", "com.example.tastatur_fur_ahren"),
        ("3.5", "model-3-5", "Model35", "com.example.model_3_5"),
        ("a\x00b\nc", "a-b-c", "ABC", "com.example.a_b_c"),
    ],
)
def test_hostile_and_foreign_names(text: str, name: str, class_name: str, package: str) -> None:
    assert names.plain_name(text) == name
    assert names.class_name(name) == class_name
    assert names.package_for(name) == package


@pytest.mark.parametrize("name", ["../up", "Keyboard", "a b", "", "a/b", "a" * 61, "ключ"])
def test_a_name_the_user_gives_is_refused_with_a_legal_one(name: str) -> None:
    with pytest.raises(ArtifactError, match="--name") as caught:
        names.checked_name(name)
    suggested = caught.value.fix.removeprefix("--name ")
    assert names.checked_name(suggested) == suggested


@pytest.mark.parametrize(
    "package", ["lm", "com..lm", "com.class.lm", "com.1lm.x", "com.ex-ample", "com.exämple", "dev.edgelm.core", "com.x;y", ""]
)
def test_a_package_that_android_would_refuse_is_refused(package: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be a namespace"):
        names.checked_package(package)
    assert names.checked_package("com.example.lm") == "com.example.lm"


@given(st.text())
def test_string_literals_are_ascii_and_mean_the_text(text: str) -> None:
    literal = templates.string_literal(text)
    assert literal.isascii()
    assert literal.isprintable()
    units = re.findall(r"\\u[0-9a-f]{4}|\\[0-7]{3}|\\.|[^\\]", literal[1:-1])
    plain = {"\\n": 10, "\\r": 13, "\\t": 9, '\\"': 34, "\\\\": 92, "\\f": 12, "\\b": 8}
    numbers = [
        int(u[2:], 16) if u.startswith("\\u") else plain[u] if u in plain else int(u[1:], 8) if len(u) == 4 else ord(u) for u in units
    ]
    assert b"".join(n.to_bytes(2, "little") for n in numbers) == text.encode("utf-16-le", "surrogatepass")


@given(st.text())
def test_comments_cannot_end_or_escape(text: str) -> None:
    safe = templates.comment(text)
    assert safe.isascii()
    assert not re.search(r"[\\@<>&{}\n]|\*/", safe)
