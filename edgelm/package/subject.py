"""What is packaged, under which names: the values every kind of package fills its templates with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelm import artifact
from edgelm.artifact import Artifact
from edgelm.device import profile as profiles
from edgelm.device.profile import DeviceProfile
from edgelm.errors import ArtifactError
from edgelm.package import names
from edgelm.package.templates import comment
from edgelm.tflite import reader, versions
from edgelm.tflite.reader import Outline, SignatureInfo

Family = Literal["recurrent", "transformer", "graph"]

_DECODE = re.compile(r"decode_(\d+)")
_STEP, _FORWARD = "step", "forward"


@dataclass(frozen=True)
class Facts:
    """What the manifest says of the model, for readers.

    Attributes:
        recipe: Name and description of the recipe.
        parameters: Number of weights; 0 when unknown.
        tool: Version of the edgelm that wrote it.
    """

    recipe: tuple[str, str]
    parameters: int
    tool: str


@dataclass(frozen=True)
class Subject:
    """An artifact with the names its package gives it.

    Attributes:
        artifact: What is packaged.
        facts: What its manifest says.
        outline: Signatures and op versions, read from the flatbuffer.
        profile: The device; its runtime and version are what the app depends on.
        name: Of the module and the model file.
        java_package: Namespace of the Android module and package of the facade.
    """

    artifact: Artifact
    facts: Facts
    outline: Outline
    profile: DeviceProfile
    name: str
    java_package: str

    @property
    def model_file(self) -> str:
        """The model's file name in the package."""
        return f"{self.name}.tflite"

    @property
    def class_name(self) -> str:
        """The facade's class."""
        return names.class_name(self.name)

    @property
    def family(self) -> Family:
        """Which sessions the model has; `graph` for one that was converted as it is."""
        if _STEP in self._signatures:
            return "recurrent"
        return "transformer" if self._rungs else "graph"

    @property
    def signature(self) -> SignatureInfo:
        """The one that gives the next token's scores: `step`, the longest `decode_C`, or `forward`."""
        kinds: dict[Family, str] = {"recurrent": _STEP, "transformer": f"decode_{max(self._rungs, default=0)}", "graph": _FORWARD}
        return self._signatures[kinds[self.family]]

    @property
    def context(self) -> int:
        """Tokens a session can take; 0 when there is no end."""
        if self.family == "graph":
            return next(iter(self.signature.inputs.values())).shape[-1]
        return max(self._rungs, default=0)

    @property
    def vocabulary(self) -> int:
        """Columns of the scores."""
        outputs = self.signature.outputs
        return (outputs["logits"] if "logits" in outputs else next(iter(outputs.values()))).shape[-1]

    @property
    def op_versions(self) -> dict[str, int]:
        """Op -> the highest version the file needs."""
        return versions.required_versions(self.outline.op_versions)

    def values(self) -> dict[str, str]:
        """Place of a template -> text, for what every kind of package says of its model."""
        data = self.artifact.tflite
        recipe, description = self.facts.recipe
        return {
            "NAME": self.name,
            "MODEL_NAME": comment(self.artifact.name),
            "MODEL_FILE": self.model_file,
            "CLASS": self.class_name,
            "PACKAGE": self.java_package,
            "RECIPE": comment(recipe),
            "RECIPE_TEXT": comment(description),
            "TARGET": comment(self.profile.name),
            "PARAMETERS": str(self.facts.parameters),
            "VOCABULARY": str(self.vocabulary),
            "CONTEXT": str(self.context),
            "BYTES": str(len(data)),
            "MEGABYTES": f"{len(data) / 1e6:.2f}",
            "SHA256": hashlib.sha256(data).hexdigest(),
            "RUNTIME": self.profile.runtime.key,
            "RUNTIME_VERSION": self.profile.runtime.version,
            "EDGELM": comment(self.facts.tool),
        }

    @property
    def _signatures(self) -> dict[str, SignatureInfo]:
        return {signature.name: signature for signature in self.outline.signatures}

    @property
    def _rungs(self) -> list[int]:
        return [int(match.group(1)) for name in self._signatures if (match := _DECODE.fullmatch(name))]


def open_subject(path: Path, *, name: str | None = None, package_name: str | None = None, target: str | None = None) -> Subject:
    """Reads an artifact and names its package.

    Args:
        path: A folder or a .tflite that edgelm wrote.
        name: Of the module and the model file; None takes the model's name, made legal.
        package_name: Java package; None makes one of the name.
        target: Device profile; None takes the one it was converted for.

    Raises:
        ArtifactError: No artifact, one whose manifest lacks what edgelm writes, or a name that is not legal.
        ProfileError: No such profile.
    """
    loaded = artifact.load(path)
    facts = _facts(loaded.manifest, path)
    outline = reader.outline(loaded.tflite)
    legal = names.plain_name(loaded.name) if name is None else names.checked_name(name)
    package = names.package_for(legal) if package_name is None else names.checked_package(package_name)
    subject = Subject(loaded, facts, outline, profiles.load(target or str(loaded.manifest["target"])), legal, package)
    _check_signature(subject, path)
    return subject


def _facts(manifest: Mapping[str, Any], path: Path) -> Facts:
    try:
        recipe, tools = manifest["recipe"], manifest["tools"]
        for key in ("name", "target"):
            str(manifest[key])
        return Facts((str(recipe["name"]), str(recipe["description"])), int(manifest["parameters"] or 0), str(tools["edgelm"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"the manifest inside {path} lacks what edgelm writes: {error}",
            allowed="a .tflite written by edgelm convert",
            fix="edgelm convert MODEL",
        ) from error


def _check_signature(subject: Subject, path: Path) -> None:
    """A graph must have `forward(ids) -> scores`; every score row must have a vocabulary."""
    signatures = {signature.name: signature for signature in subject.outline.signatures}
    known = subject.family != "graph" or _FORWARD in signatures
    ends = (*subject.signature.inputs.values(), *subject.signature.outputs.values()) if known else ()
    whole = known and subject.signature.outputs and subject.signature.inputs and all(tensor.shape for tensor in ends)
    single = subject.family != "graph" or (known and len(subject.signature.inputs) == len(subject.signature.outputs) == 1)
    if not (whole and single):
        met = ", ".join(signatures) or "none"
        raise ArtifactError(
            f"{path} has no signature edgelm can run (it has: {met})",
            allowed="step, decode_C, forward(ids) -> scores",
            fix=f"edgelm inspect {path}",
        )
