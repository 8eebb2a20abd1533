"""Recipes: ordered steps that turn a model into a smaller one, as TOML files whose unknown keys are errors.

```toml
description = "4-bit blocks of 32, 8-bit embedding and head"
form = "litert"            # optional: "litert" (default) or "tflite-2.14"

[[steps]]
technique = "quantize"
weights = "int4-block32"
embedding = "int8"
head = "int8"
```
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from edgelm.errors import RecipeError
from edgelm.spec import Encoding

Form = Literal["litert", "tflite-2.14"]
"""Which graph is written: the fast one of today's runtime, or the one whose numbers are right on tflite-runtime 2.14."""

FORMS: tuple[Form, ...] = ("litert", "tflite-2.14")
DEFAULT = "int8"


@dataclass(frozen=True)
class Quantize:
    """The post-training choice of an encoding for every matrix.

    Attributes:
        weights: Encoding of the matrices of the layers.
        embedding: Encoding of the embedding table (and of a tied head).
        head: Encoding of an untied head, and of the dense layers before it.
        keep_float: Patterns (`layers.0.*`) of canonical weight names that stay float32.
    """

    weights: Encoding
    embedding: Encoding
    head: Encoding
    keep_float: tuple[str, ...] = ()


Step = Quantize


@dataclass(frozen=True)
class Recipe:
    """Named, ordered steps and the form of graph they end in."""

    name: str
    description: str
    steps: tuple[Step, ...]
    form: Form = "litert"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the manifest."""
        steps = [
            {"technique": "quantize", "weights": s.weights.value, "embedding": s.embedding.value, "head": s.head.value}
            | ({"keep_float": list(s.keep_float)} if s.keep_float else {})
            for s in self.steps
        ]
        return {"name": self.name, "description": self.description, "form": self.form, "steps": steps}


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> RecipeError:
    """The error for a key or value that does not exist, with the nearest name."""
    names = list(allowed)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return RecipeError(f"{where}: {key!r} is not known{hint}", allowed=", ".join(names), fix="edgelm recipes")


def _encoding(where: str, value: object) -> Encoding:
    try:
        return Encoding(str(value))
    except ValueError:
        raise unknown_key(where, str(value), [e.value for e in Encoding]) from None


def _quantize(where: str, table: Mapping[str, Any]) -> Quantize:
    allowed = ("weights", "embedding", "head", "keep_float")
    for key in table:
        if key not in allowed:
            raise unknown_key(where, key, ("technique", *allowed))
    if "weights" not in table:
        raise RecipeError(f"{where}: key 'weights' is missing", allowed=", ".join(e.value for e in Encoding), fix="edgelm recipes")
    weights = _encoding(f"{where}, key weights", table["weights"])
    embedding = _encoding(f"{where}, key embedding", table.get("embedding", weights))
    keep = table.get("keep_float", [])
    if not isinstance(keep, list) or not all(isinstance(pattern, str) for pattern in keep):
        raise RecipeError(f"{where}, key keep_float: met {keep!r}", allowed='a list of patterns such as ["layers.0.*"]')
    return Quantize(weights, embedding, _encoding(f"{where}, key head", table.get("head", embedding)), tuple(keep))


TECHNIQUES = {"quantize": _quantize}


def parse(name: str, text: str) -> Recipe:
    """Reads a recipe's TOML text.

    Raises:
        RecipeError: Not TOML, an unknown key or value (with the nearest known name), or no steps.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name} is not TOML: {error}", fix="edgelm recipes --show int8") from error
    for key in table:
        if key not in ("description", "form", "steps"):
            raise unknown_key(f"recipe {name}", key, ("description", "form", "steps"))
    form = table.get("form", "litert")
    if form not in FORMS:
        raise unknown_key(f"recipe {name}, key form", str(form), FORMS)
    steps = table.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise RecipeError(f"recipe {name} has no steps", allowed="one or more [[steps]] tables", fix="edgelm recipes --show int8")
    return Recipe(name, str(table.get("description", "")), tuple(_step(name, i, step) for i, step in enumerate(steps, 1)), form)


def _step(name: str, number: int, table: Mapping[str, Any]) -> Step:
    where = f"recipe {name}, step {number}"
    technique = str(table.get("technique", ""))
    if technique not in TECHNIQUES:
        raise unknown_key(where, technique, TECHNIQUES)
    return TECHNIQUES[technique](where, {key: value for key, value in table.items() if key != "technique"})


def shipped() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with edgelm."""
    folder = resources.files("edgelm") / "recipes"
    files = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}


def load(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by name, or a TOML file by path.

    Raises:
        RecipeError: No such recipe, or one that cannot be read.
    """
    texts = shipped()
    if str(name_or_path) in texts:
        return parse(str(name_or_path), texts[str(name_or_path)])
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise unknown_key("recipe", str(name_or_path), texts)
    try:
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {path} cannot be read: {error}", fix="edgelm recipes") from error
