"""Plain training on the corpus: the control of every technique that trains, and a way to adapt a model to new text."""

from __future__ import annotations

from edgelm.compress.step_data import StepData
from edgelm.model import LanguageModel
from edgelm.recipe_steps import Finetune


def apply(model: LanguageModel, step: Finetune, data: StepData) -> LanguageModel:
    """The model after more training, in float; encodings and scales of earlier steps are dropped.

    Raises:
        TrainingError: From the loop.
    """
    from edgelm.compress.fit import fit
    from edgelm.models import keras_model

    trained = keras_model.from_language_model(model)
    if step.train.epochs:
        fit(trained, step.train, data)
    return model.replace(weights=keras_model.get_weights(trained), encodings={}, scales={})
