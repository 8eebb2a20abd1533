"""The files an iOS app needs, and a Swift snippet. Nothing here was ever built, and every file says so."""

from __future__ import annotations

from edgelm import artifact
from edgelm.package import templates
from edgelm.package.subject import Subject


def files(subject: Subject) -> dict[str, bytes]:
    """The package: relative path -> content.

    Args:
        subject: What is packaged.
    """
    tokenizer = {} if subject.artifact.tokenizer is None else {artifact.TOKENIZER: subject.artifact.tokenizer.encode("utf-8")}
    values = subject.values() | {
        "OP_VERSIONS": ", ".join(f"{op} v{version}" for op, version in sorted(subject.op_versions.items())),
        "STATES": _states(subject),
        "TOKENIZER_LINE": "- `tokenizer.json`: the tokenizer, in the format of Hugging Face's tokenizers."
        if tokenizer
        else "- no tokenizer: the model was converted without one.",
    }
    return {
        subject.model_file: subject.artifact.tflite,
        artifact.MANIFEST: artifact.encode_json(subject.artifact.manifest),
        **tokenizer,
        f"{subject.class_name}.swift": templates.fill(f"ios/{subject.family}.swift", values),
        "README.md": templates.fill("ios/README.md", values),
    }


def _states(subject: Subject) -> str:
    """The state names of a recurrent model, or the cache names of a transformer, as Swift string literals."""
    own = {"token", "position", "mask"}
    return ", ".join(templates.string_literal(state) for state in sorted(subject.signature.inputs) if state not in own)
