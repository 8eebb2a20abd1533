"""Distillation (Hinton, Vinyals & Dean 2015): a new, smaller student learns from a teacher's distributions as well as from the text.

The student starts from fresh weights of a seed, but for its embedding: where the teacher's table is at hand and no narrower, the student
begins with the table's principal directions, the closest one of its rank. With `alpha = 1` the training leaves the teacher out: the
control, which starts alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import source
from edgelm.compress.objective import Objective
from edgelm.compress.step_data import StepData
from edgelm.errors import RecipeError
from edgelm.model import Imported, LanguageModel
from edgelm.recipe_steps import Distill
from edgelm.spec import ModelSpec, RecurrentSpec, TransformerSpec, spec_from_dict, spec_to_dict, weight_shapes

Tensor = Any

GRAIN = 8
"""Sizes of a student that edgelm chooses are multiples of it, as vector units like them."""


def apply(model: LanguageModel, step: Distill, data: StepData) -> LanguageModel:
    """The student, trained; it keeps the model's name and tokenizer, and has neither encodings nor scales.

    Raises:
        RecipeError: The student's spec or the teacher's vocabulary does not fit, or hidden states are wanted of a teacher that shows none.
        UnsupportedModelError: The student's spec is no legal one.
        TrainingError: From the loop.
    """
    import tf_keras

    from edgelm.compress.fit import fit
    from edgelm.models import keras_model

    spec = student_spec(model.spec, step.student)
    teacher = _teacher(step, data)
    _require_vocabulary(teacher, spec)
    tf_keras.utils.set_random_seed(step.train.seed)
    student = keras_model.build(spec)
    weights = keras_model.get_weights(student)
    keras_model.set_weights(student, weights | embedding_start(weights["embedding.weight"], teacher))
    if step.train.epochs:
        fit(student, step.train, data, objective=_objective(step, teacher, data, student))
    return model.replace(spec=spec, weights=keras_model.get_weights(student), encodings={}, scales={}, ranges={})


def student_spec(teacher: ModelSpec, changes: Mapping[str, Any]) -> ModelSpec:
    """The student that a recipe describes.

    Args:
        teacher: Spec of the model that is distilled.
        changes: Keys that differ from it; with `family` a whole spec, of the same vocabulary; empty for half the parameters.

    Raises:
        UnsupportedModelError: An unknown key or an illegal value.
        RecipeError: Another vocabulary.

    Example:
        >>> student_spec(RecurrentSpec(1000, 64, "lstm", (512,)), {"units": [256]}).units
        (256,)
    """
    if not changes:
        return halved(teacher)
    whole = {"vocab_size": teacher.vocab_size} if "family" in changes else spec_to_dict(teacher)
    spec = spec_from_dict(whole | dict(changes))
    if spec.vocab_size != teacher.vocab_size:
        raise RecipeError(f"distill: a student with vocab_size = {spec.vocab_size}", allowed=f"{teacher.vocab_size}, that of the model")
    return spec


def halved(spec: ModelSpec) -> ModelSpec:
    """The largest spec of at most half the parameters whose widths all shrink by one factor; layers and heads stay.

    Example:
        >>> halved(RecurrentSpec(10_000, 96, "lstm", (512,), hidden=(DenseLayer(96),), tied_head=True)).units
        (304,)
    """
    budget = parameters(spec) // 2
    for part in range(63, 0, -1):
        smaller = _scaled(spec, part / 64)
        if parameters(smaller) <= budget:
            return smaller
    raise RecipeError("distill: the model is too small for a student of half its parameters", fix="give the student's spec")


def parameters(spec: ModelSpec) -> int:
    """Weights of a model of that spec."""
    return sum(int(np.prod(shape)) for shape in weight_shapes(spec).values())


def _scaled(spec: ModelSpec, factor: float) -> ModelSpec:
    def size(whole: int) -> int:
        return max(GRAIN, round(whole * factor / GRAIN) * GRAIN)

    if isinstance(spec, TransformerSpec):
        return dataclasses.replace(spec, width=size(spec.width), ffn_size=size(spec.ffn_size))
    units = tuple(size(units) for units in spec.units)
    gates = spec.embedding_size // spec.units[0]
    embedding = gates * units[0] if spec.gate_embedding else size(spec.embedding_size)
    hidden = tuple(dataclasses.replace(dense, size=size(dense.size)) for dense in spec.hidden)
    projection = size(spec.embedding_projection) if spec.embedding_projection else 0
    return dataclasses.replace(spec, units=units, embedding_size=embedding, hidden=hidden, embedding_projection=projection)


def embedding_start(fresh: NDArray[np.float32], teacher: Imported) -> dict[str, NDArray[np.float32]]:
    """The student's first embedding from the teacher's: its principal directions (Eckart & Young 1936), or the table itself.

    Args:
        fresh: (vocab, size), the student's own.
        teacher: Whose table is (vocab, at least size).

    Returns:
        `embedding.weight`; nothing where the teacher's table is not known, or narrower.
    """
    if not isinstance(teacher.model, LanguageModel) or _is_gate_table(teacher.model.spec):
        return {}
    table = teacher.model.float32("embedding.weight")
    if table.shape[1] < fresh.shape[1]:
        return {}
    if table.shape == fresh.shape:
        return {"embedding.weight": table}
    _, directions = np.linalg.eigh(table.T @ table)  # ascending
    return {"embedding.weight": np.ascontiguousarray(table @ directions[:, ::-1][:, : fresh.shape[1]])}


def _is_gate_table(spec: ModelSpec) -> bool:
    return isinstance(spec, RecurrentSpec) and spec.gate_embedding


def _teacher(step: Distill, data: StepData) -> Imported:
    if step.teacher == "source":
        return Imported(data.source, source.source_logits_of(data.source))
    return source.load(step.teacher)


def _require_vocabulary(teacher: Imported, spec: ModelSpec) -> None:
    met = teacher.model.spec.vocab_size if isinstance(teacher.model, LanguageModel) else teacher.model.vocab_size
    if met != spec.vocab_size:
        raise RecipeError(
            f"distill: teacher {teacher.model.name} knows {met} tokens",
            allowed=f"{spec.vocab_size}, as the student: both must have the same tokenizer",
        )


def _objective(step: Distill, teacher: Imported, data: StepData, student: Any) -> Objective:
    from edgelm.compress.teacher import Distillation, store_of, teacher_of

    if step.alpha == 1:
        return Objective()
    if not step.hidden:
        return Distillation(teacher_of(teacher), step.temperature, step.alpha, store_of(data, step.top_k))
    if not isinstance(teacher.model, LanguageModel):
        raise RecipeError("distill: hidden states of a teacher that edgelm cannot look into", fix="leave out hidden")
    return _with_hidden(step, teacher.model, student)


def _with_hidden(step: Distill, teacher: LanguageModel, student: Any) -> Objective:
    """Distillation with the squared error of the last hidden states (Romero et al. 2015), through a linear map that is trained along.

    The teacher runs at every step: its hidden states are not stored.
    """
    import tensorflow as tf

    from edgelm.compress.head_inputs import split
    from edgelm.compress.teacher import Distillation, teacher_of

    class HiddenDistillation(Distillation):
        """The same, with hidden states."""

        wants_hidden = True

        def of_hidden(self, hidden: Tensor, *extra: Tensor) -> Tensor:
            """step.hidden * mean((map(hidden) - states)^2) of each token, (batch, time)."""
            states = extra[0]  # (batch, time, teacher size)
            error = tf.tensordot(hidden, self.variables[0], 1) - states if self.variables else hidden - states
            return step.hidden * tf.reduce_mean(tf.square(error), axis=-1)

    objective = HiddenDistillation(teacher_of(teacher), step.temperature, step.alpha)
    objective.name += f", hidden {step.hidden:g}"
    sizes = split(student).hidden.output_shape[-1], objective.teacher.states(np.zeros((1, 1), np.int32)).shape[-1]
    if sizes[0] != sizes[1]:
        start = np.random.default_rng(step.train.seed).standard_normal(sizes) / np.sqrt(sizes[0])
        objective.variables = [tf.Variable(start.astype(np.float32), name="hidden_map")]
    return objective
