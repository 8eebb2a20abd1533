"""Names that are legal in Java, Gradle and file systems, whatever the model is called."""

from __future__ import annotations

import re
import unicodedata

from edgelm.errors import ArtifactError

# JLS 17, 3.9: keywords, contextual ones that cannot name a type, and literals; the last line is Kotlin's, which a Kotlin app would quote.
_JAVA_WORDS = """
abstract assert boolean break byte case catch char class const continue default do double else enum extends final finally float for goto if
implements import instanceof int interface long native new package private protected public return short static strictfp super switch
synchronized this throw throws transient try void volatile while _ true false null var record sealed permits yield module open opens
as fun in is object typealias val when
"""
JAVA_WORDS = frozenset(_JAVA_WORDS.split())
"""Words that cannot be a part of a package name."""

_TAKEN = """
Artifact AssertionError AssetFileDescriptor Arrays AutoCloseable ByteBuffer Completer Context EdgeLmException FileChannel FileInputStream
FloatBuffer IOException InstrumentationRegistry IntBuffer LiteRtRunner List LongBuffer ModelRunner Object Override RuntimeException
SamplingSettings Session Signature String Suggester Suggestion System Test TextSink Tokenizer
"""
_TAKEN_CLASSES = frozenset(_TAKEN.split())
"""Classes a facade uses: one of the same name would hide them."""

_LONGEST = 60
_MODULE = re.compile(r"[a-z][a-z0-9_-]{0,59}")


def plain_name(text: str) -> str:
    """A file and module name from any text: a letter, then lower-case letters, digits, `_` and `-`; `model` where nothing is left.

    Args:
        text: Such as a model's name.

    Example:
        >>> plain_name("Été 2024/../../x"), plain_name("9 gates"), plain_name("模型")
        ('ete-2024-x', 'model-9-gates', 'model')
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    name = re.sub(r"[^a-z0-9_]+", "-", ascii_text).strip("-_")[:_LONGEST].rstrip("-_")
    if not name:
        return "model"
    return name if name[0].isalpha() else f"model-{name}"[:_LONGEST]


def checked_name(text: str) -> str:
    """A name the user gave.

    Raises:
        ArtifactError: It is none `plain_name` would give.
    """
    if not _MODULE.fullmatch(text):
        raise ArtifactError(
            f"--name {text!r} cannot name a module and its model file",
            allowed=f"a letter, then lower-case letters, digits, _ and -, {_LONGEST} at most",
            fix=f"--name {plain_name(text)}",
        )
    return text


def class_name(name: str) -> str:
    """The facade's class for a plain name.

    Example:
        >>> class_name("keyboard-lstm"), class_name("string"), class_name("class")
        ('KeyboardLstm', 'StringModel', 'ClassModel')
    """
    camel = "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_]+", name) if part)
    return f"{camel}Model" if camel in _TAKEN_CLASSES else camel


def package_for(name: str) -> str:
    """The Java package of a module when the user named none.

    Example:
        >>> package_for("keyboard-lstm"), package_for("new")
        ('com.example.keyboard_lstm', 'com.example.new_')
    """
    part = name.replace("-", "_")
    return f"com.example.{part}_" if part in JAVA_WORDS else f"com.example.{part}"


def checked_package(text: str) -> str:
    """A Java package the user gave.

    Raises:
        ArtifactError: Android's build would refuse it: fewer than two parts, a keyword, or anything but ASCII letters, digits and _.
    """
    parts = text.split(".")
    bad = [part for part in parts if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", part) or part in JAVA_WORDS]
    if bad or len(parts) < 2 or len(text) > 200 or text.startswith(("dev.edgelm.", "java.", "javax.", "android.", "kotlin.")):
        why = f"its part {bad[0]!r} is no Java name" if bad else "it is too short, too long or belongs to somebody else"
        raise ArtifactError(
            f"--package-name {text!r} cannot be a namespace: {why}",
            allowed="two parts or more, each a letter, then letters, digits and _, none a Java or Kotlin keyword",
            fix="--package-name com.example.lm",
        )
    return text
