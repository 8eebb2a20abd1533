"""TFLiteConverter's own result: LSTMs as Keras layers with states in and out, dynamic range int8, run by LiteRT."""

from __future__ import annotations

import os
from collections.abc import Sequence

import job as jobs
import numpy as np
from job import Job


def convert(job: Job) -> None:
    """A step function of the Keras model through TFLiteConverter with default optimizations."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tf_keras

    weights = jobs.lstm_tensors(job.source)
    table = weights["embedding.weight"]
    units = [weights[f"layers.{n}.recurrent.weight"].shape[1] for n in range(jobs.recurrent_layers(weights))]
    token = tf_keras.Input((1,), batch_size=1, dtype=tf.int32, name="token")
    embedding, lstms = (
        tf_keras.layers.Embedding(*table.shape),
        [tf_keras.layers.LSTM(size, return_state=True) for size in units],
    )
    states = [tf_keras.Input((size,), batch_size=1, name=f"{kind}{n}") for n, size in enumerate(units) for kind in "hc"]
    x, returned = embedding(token), []
    for n, lstm in enumerate(lstms):
        y, h, c = lstm(x, initial_state=states[2 * n : 2 * n + 2])
        x, returned = tf_keras.layers.Reshape((1, units[n]))(y), [*returned, h, c]
    offset = weights.get("head.bias")
    dense = [*jobs.linear_layers(weights), (table, offset)]
    layers = [tf_keras.layers.Dense(len(weight), use_bias=bias is not None) for weight, bias in dense]
    for layer in layers:
        y = layer(y)
    model = tf_keras.Model([token, *states], [y, *returned])
    embedding.set_weights([table])
    for layer, (weight, bias) in zip(layers, dense, strict=True):
        layer.set_weights([weight.T] if bias is None else [weight.T, bias])
    for n, lstm in enumerate(lstms):
        lstm.set_weights(
            [weights[f"layers.{n}.input.weight"].T, weights[f"layers.{n}.recurrent.weight"].T, weights[f"layers.{n}.input.bias"]]
        )
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    job.artifact.write_bytes(converter.convert())


class Session:
    """LiteRT's interpreter; the states are copied from the outputs to the inputs, matched by the order of the model's outputs."""

    def __init__(self, job: Job) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(job.artifact), num_threads=job.threads)
        self.interpreter.allocate_tensors()
        inputs = self.interpreter._get_full_signature_list()["serving_default"]["inputs"]
        self.token = self.interpreter.tensor(inputs["token"])
        details = sorted(self.interpreter.get_output_details(), key=lambda detail: int(detail["name"].rsplit(":", 1)[1]))
        self.logits, *returned = (self.interpreter.tensor(detail["index"]) for detail in details)
        names = sorted((name for name in inputs if name != "token"), key=lambda name: (name[1:], "hc".index(name[0])))
        given = [self.interpreter.tensor(inputs[name]) for name in names]
        self.states = list(zip(given, returned, strict=True))

    def reset(self) -> None:
        """See `job.Session`."""
        for given, _ in self.states:
            given().fill(0)

    def take(self, ids: Sequence[int]) -> np.ndarray:
        """See `job.Session`."""
        for token in ids:
            self.token()[0, 0] = token
            self.interpreter.invoke()
            for given, returned in self.states:
                np.copyto(given(), returned())
        return self.logits()[0].copy()


if __name__ == "__main__":
    jobs.run(convert, Session)
