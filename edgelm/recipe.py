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

`edgelm.recipe_steps` has the keys of each technique; a step that trains takes a table `[steps.train]` with the keys of `Training`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgelm import recipe_order
from edgelm.errors import RecipeError
from edgelm.recipe_steps import STEPS, Step, default_of, step_to_dict, technique_of
from edgelm.recipe_training import Training
from edgelm.spec import Encoding

Form = Literal["litert", "tflite-2.14"]
"""Which graph is written: the fast one of today's runtime, or the one whose numbers are right on tflite-runtime 2.14."""

Made = TypeVar("Made")

FORMS: tuple[Form, ...] = ("litert", "tflite-2.14")
DEFAULT = "int8"

ROUNDING = ("quantize", "mixed")
"""Techniques that only round weights."""

FOLLOWS = {"embedding": "weights", "head": "embedding"}
"""Key of a step that has no default of its own -> the key whose value it takes."""


@dataclass(frozen=True)
class Recipe:
    """Named, ordered steps and the form of graph they end in."""

    name: str
    description: str
    steps: tuple[Step, ...]
    form: Form = "litert"

    @property
    def wants_data(self) -> bool:
        """One of its steps looks at text."""
        return any(step.wants_data for step in self.steps)

    @property
    def only_rounds(self) -> bool:
        """Its steps only round weights: what comes out has to compute what went in."""
        return only_round(technique_of(step) for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the manifest; `from_dict` reads them back."""
        steps = [step_to_dict(step) for step in self.steps]
        return {"name": self.name, "description": self.description, "form": self.form, "steps": steps}


def only_round(techniques: Iterable[str]) -> bool:
    """Whether all these techniques only round weights."""
    return all(technique in ROUNDING for technique in techniques)


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> RecipeError:
    """The error for a key or value that does not exist, with the nearest name."""
    names = list(allowed)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return RecipeError(f"{where}: {key!r} is not known{hint}", allowed=", ".join(names), fix="edgelm recipes")


def parse(name: str, text: str) -> Recipe:
    """Reads a recipe's TOML text.

    Raises:
        RecipeError: Not TOML, an unknown key or value (with the nearest known name), a value of the wrong type or out of its range, no
            steps, or an order that `recipe_order.check` refuses.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name} is not TOML: {error}", fix="edgelm recipes --show int8") from error
    if "name" in table:
        raise unknown_key(f"recipe {name}", "name", ("description", "form", "steps"))
    return from_dict({**table, "name": name})


def from_dict(table: Mapping[str, Any]) -> Recipe:
    """Reads what `Recipe.to_dict` wrote.

    Raises:
        RecipeError: As `parse`.
    """
    name = str(table.get("name", ""))
    for key in table:
        if key not in ("name", "description", "form", "steps"):
            raise unknown_key(f"recipe {name}", key, ("description", "form", "steps"))
    form = table.get("form", "litert")
    if form not in FORMS:
        raise unknown_key(f"recipe {name}, key form", str(form), FORMS)
    steps = table.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise RecipeError(f"recipe {name} has no steps", allowed="one or more [[steps]] tables", fix="edgelm recipes --show int8")
    read = tuple(_step(f"recipe {name}, step {number}", step) for number, step in enumerate(steps, 1))
    try:
        recipe_order.check(read)
    except RecipeError as error:
        raise RecipeError(f"recipe {name}: {error.what}", allowed=error.allowed, fix=error.fix) from error
    return Recipe(name, str(table.get("description", "")), read, form)


def _step(where: str, table: Mapping[str, Any]) -> Step:
    technique = str(table.get("technique", ""))
    if technique not in STEPS:
        raise unknown_key(where, technique, STEPS)
    kind = STEPS[technique]
    where = f"{where} ({technique})"
    values = _values(where, kind, {key: value for key, value in table.items() if key != "technique"})
    for item in dataclasses.fields(kind):
        if item.name not in values and default_of(item) is dataclasses.MISSING:
            if FOLLOWS.get(item.name) not in values:
                raise RecipeError(f"{where}: key {item.name!r} is missing", allowed=_allowed(kind, item.name), fix="edgelm recipes")
            values[item.name] = values[FOLLOWS[item.name]]
    return _made(where, lambda: kind(**values))


def _values(where: str, kind: type, table: Mapping[str, Any], usual: Any = None) -> dict[str, Any]:
    """The table's values as the fields of a dataclass want them; `usual` is the instance whose fields stand for missing keys."""
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise unknown_key(where, key, fields if usual is not None else ("technique", *fields))
        if hints[key] is Training:
            values[key] = _training(f"{where}, table {key}", value, default_of(fields[key]))
        else:
            values[key] = _value(f"{where}, key {key}", hints[key], value)
    return values


def _training(where: str, table: object, usual: Training) -> Training:
    """A `[steps.train]` table: what it leaves out is as the technique has it."""
    if not isinstance(table, dict):
        raise _wrong_type(where, table, "a table of training settings")
    values = _values(where, Training, table, usual)
    return _made(where, lambda: dataclasses.replace(usual, **values))


def _made(where: str, make: Callable[[], Made]) -> Made:
    """What `make` gives; an illegal value is an error that names the place."""
    try:
        return make()
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.what}", allowed=error.allowed, fix=error.fix or "edgelm recipes") from error


def _value(where: str, hint: Any, value: object) -> Any:
    """A TOML value as its annotation wants it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal or hint is Encoding:
        names = list(parts) if origin is Literal else [encoding.value for encoding in Encoding]
        if value not in names:
            raise unknown_key(where, str(value), names)
        return value if origin is Literal else Encoding(str(value))
    if origin is tuple:
        several = parts[-1] is Ellipsis
        if not isinstance(value, list) or not (several or len(value) == len(parts)):
            raise _wrong_type(where, value, _LISTS.get(parts[0], "a list of names"))
        return tuple(_value(where, parts[0], part) for part in value)
    allowed, accepted = _PLAIN[origin or hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool) or (hint is float and not math.isfinite(value)):
        raise _wrong_type(where, value, allowed)
    return float(value) if hint is float else value


_PLAIN: dict[Any, tuple[str, Any]] = {
    float: ("a number", int | float),
    int: ("a whole number", int),
    bool: ("true or false", bool),
    str: ("a text", str),
    dict: ("a table", dict),
}
"""Annotation -> (what is allowed, the TOML types that are accepted)."""


_LISTS = {str: 'a list of patterns such as ["layers.0.*"]', float: "a list of two numbers"}


def _wrong_type(where: str, value: object, allowed: str) -> RecipeError:
    return RecipeError(f"{where}: met {value!r}", allowed=allowed, fix="edgelm recipes")


def _allowed(kind: type, key: str) -> str:
    hint = typing.get_type_hints(kind)[key]
    return ", ".join(encoding.value for encoding in Encoding) if hint is Encoding else ", ".join(map(str, typing.get_args(hint)))


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
