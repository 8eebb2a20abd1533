"""Opens a SavedModel that edgelm wrote, in TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import optional_package
from edgelm.native_output import silenced
from edgelm.runtime.states import States, StateSession, zeros

STEP, FORWARD = "step", "forward"


def open_saved_model(folder: Path, *, max_positions: int | None = None) -> StateSession:
    """Loads the stateful signature of a SavedModel: `step` or `forward`, as `edgelm.lower.saved_model` documents them.

    Args:
        folder: With `saved_model.pb`.
        max_positions: Tokens a text may have.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
    """
    with silenced():
        tf = optional_package("tensorflow", "running a SavedModel", "keras")
        loaded = tf.saved_model.load(str(folder))
    steps = STEP in loaded.signatures
    kind = STEP if steps else FORWARD
    signature = loaded.signatures[kind]
    ids_name = "token" if steps else "ids"
    given = signature.structured_input_signature[1]
    shapes = {name: [size or "free" for size in spec.shape.as_list()] for name, spec in given.items() if name != ids_name}

    def advance(ids: NDArray[np.int64], states: States) -> tuple[NDArray[np.float32], States]:
        tokens = ids[:, 0] if steps else ids
        run = loaded.signatures[kind]  # through `loaded`: a signature alone does not keep its variables alive
        values = {name: tf.constant(state) for name, state in states.items()}
        outputs = {name: value.numpy() for name, value in run(**{ids_name: tf.constant(tokens, tf.int32)}, **values).items()}
        logits = outputs["logits"]
        return (logits[:, None] if steps else logits), {name: outputs[name] for name in states}

    vocab_size = int(signature.structured_outputs["logits"].shape[-1])
    runtime = f"tensorflow {tf.__version__}"
    return StateSession(runtime, advance, zeros(shapes), vocab_size, max_positions, prefills=not steps)
