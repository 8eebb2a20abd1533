"""The Java class for one model: typed calls, and its facts as documented constants."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgelm.errors import UnsupportedModelError
from edgelm.package import templates
from edgelm.package.engine import ADAPTER_PACKAGE
from edgelm.package.subject import Subject

_INDENT = " " * 8


@dataclass(frozen=True)
class _Parts:
    """What one kind of model puts into the class.

    Attributes:
        imports: Fully qualified names besides those every facade has.
        fields: Declarations behind `runner`.
        construction: Statements of the constructor.
        members: Templates of its methods.
        places: Place of those templates -> text.
    """

    imports: tuple[str, ...]
    fields: tuple[str, ...]
    construction: tuple[str, ...]
    members: tuple[str, ...]
    places: Mapping[str, str] = field(default_factory=dict)


_COMMON_IMPORTS = (
    "android.content.Context",
    "android.content.res.AssetFileDescriptor",
    "dev.edgelm.core.Artifact",
    "dev.edgelm.core.EdgeLmException",
    "dev.edgelm.core.ModelRunner",
    f"{ADAPTER_PACKAGE}.LiteRtRunner",
    "java.io.FileInputStream",
    "java.io.IOException",
    "java.nio.ByteBuffer",
    "java.nio.channels.FileChannel",
)

_SESSION = _Parts(
    imports=("dev.edgelm.core.Session", "java.nio.FloatBuffer"),
    fields=("private final Session session;",),
    construction=("session = Session.open(artifact.manifest(), runner);",),
    members=("session_members.java",),
)

_TEXT = _Parts(
    imports=(
        "dev.edgelm.core.Completer",
        "dev.edgelm.core.SamplingSettings",
        "dev.edgelm.core.Suggester",
        "dev.edgelm.core.Suggestion",
        "dev.edgelm.core.TextSink",
        "dev.edgelm.core.Tokenizer",
        "java.util.List",
    ),
    fields=(
        "private final Tokenizer tokenizer;",
        "private final Suggester suggester;",
        "private final Completer completer;",
        "private boolean suggesting; // the session stands where the suggester left it",
    ),
    construction=(
        "tokenizer = artifact.tokenizer();",
        "suggester = new Suggester(session, tokenizer);",
        "completer = new Completer(session, tokenizer);",
    ),
    members=("text_members.java", "encode_member.java"),
)

_SHARED = {"USES_SESSION": f"{_INDENT}suggesting = false;\n", "OTHERS": "; {@link #suggest} and {@link #complete} use the same session"}
_ALONE = {"USES_SESSION": "", "OTHERS": ""}
"""Places of the session's methods: with the text methods beside them, and without."""

_VIEWS = {"int32": ("IntBuffer", "asIntBuffer"), "int64": ("LongBuffer", "asLongBuffer"), "float32": ("FloatBuffer", "asFloatBuffer")}
"""Type of a graph's ids -> the view that takes them; Java widens an int to each."""


def java(subject: Subject) -> bytes:
    """Source of the facade.

    Args:
        subject: What is packaged.

    Raises:
        UnsupportedModelError: A graph whose ids or scores have a type the facade cannot pass.
    """
    parts = _graph(subject) if subject.family == "graph" else _session(subject)
    imports = sorted({*_COMMON_IMPORTS, *parts.imports})
    values = subject.values() | {
        "RECIPE_LITERAL": templates.string_literal(subject.facts.recipe[0]),
        "IMPORTS": "\n".join(f"import {name};" for name in imports),
        "FIELDS": textwrap.indent("\n".join(parts.fields), " " * 4),
        "CONSTRUCTION": textwrap.indent("\n".join(parts.construction), _INDENT),
        "MEMBERS": "\n".join(_filled(member, parts.places) for member in parts.members).rstrip("\n"),
    }
    return templates.fill("android/Facade.java", values)


def usage(subject: Subject) -> str:
    """Lines of Java that show the facade at work."""
    name = subject.class_name
    call = {
        True: 'List<Suggestion> words = model.suggest("see you", 3);',
        False: "FloatBuffer logits = model.prefill(new int[] {1, 2, 3});",
    }[subject.artifact.tokenizer is not None]
    if subject.family == "graph":
        call = "FloatBuffer scores = model.next(new int[] {1, 2, 3});"
    return f"try ({name} model = {name}.open(context, 1)) {{\n    {call}\n}}"


def _session(subject: Subject) -> _Parts:
    kinds = (_SESSION, _TEXT) if subject.artifact.tokenizer else (_SESSION,)
    return _Parts(
        imports=tuple(name for kind in kinds for name in kind.imports),
        fields=tuple(field for kind in kinds for field in kind.fields),
        construction=tuple(line for kind in kinds for line in kind.construction),
        members=tuple(member for kind in reversed(kinds) for member in kind.members),
        places=_SHARED if len(kinds) > 1 else _ALONE,
    )


def _graph(subject: Subject) -> _Parts:
    """A window of ids in, scores out."""
    ((ids, ids_info),), ((scores, scores_info),) = subject.signature.inputs.items(), subject.signature.outputs.items()
    if ids_info.dtype not in _VIEWS or scores_info.dtype != "float32":
        raise UnsupportedModelError(
            f"model {subject.artifact.name} takes {ids_info.dtype} ids and gives {scores_info.dtype} scores",
            allowed=f"ids in {', '.join(_VIEWS)}; scores in float32",
            fix="edgelm package ARTIFACT --into app/src/main/assets, and your own calls",
        )
    kind, view = _VIEWS[ids_info.dtype]
    last_only = len(scores_info.shape) == 2
    places = {
        "PADDED": "left" if last_only else "right",
        "START": "CONTEXT - tokens.length" if last_only else "0",
        "ROW": "0" if last_only else "(tokens.length - 1) * VOCABULARY",
    }
    tokenizer = subject.artifact.tokenizer is not None
    return _Parts(
        imports=(
            "dev.edgelm.core.Signature",
            f"java.nio.{kind}",
            "java.nio.FloatBuffer",
            *(["dev.edgelm.core.Tokenizer"] if tokenizer else []),
        ),
        fields=(
            "private final Signature forward;",
            f"private final {kind} ids;",
            "private final FloatBuffer scores;",
            *(["private final Tokenizer tokenizer;"] if tokenizer else []),
        ),
        construction=(
            'forward = runner.signature("forward");',
            f"ids = forward.input({templates.string_literal(ids)}).{view}();",
            f"scores = forward.output({templates.string_literal(scores)}).asFloatBuffer();",
            *(["tokenizer = artifact.tokenizer();"] if tokenizer else []),
        ),
        members=("graph_members.java", *(["encode_member.java"] if tokenizer else [])),
        places=places,
    )


def _filled(template: str, places: Mapping[str, str]) -> str:
    return templates.fill(f"android/{template}", places).decode("utf-8")
