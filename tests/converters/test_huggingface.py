"""Hugging Face folders: each architecture against transformers, and one clear error for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_checkpoints import CASES, TIME, VOCAB, build, change_config, framework_logits, retensored, save

from edgelm import source
from edgelm.errors import EdgeLMError, SourceError, UnsupportedModelError
from edgelm.lower.direct import lower
from edgelm.model import LanguageModel
from edgelm.models.reference import logits
from edgelm.runtime.session import open_session
from edgelm_converters import huggingface
from edgelm_converters.hf_architectures import ARCHITECTURES, REFUSED

IDS = np.random.default_rng(3).integers(0, VOCAB, TIME)

MAX_DIFFERENCE = 1e-4  # float32 sums in another order; logits reach 39 (measured: 4e-5 at most)


def read(folder: Path) -> LanguageModel:
    model = huggingface.read(folder).model
    assert isinstance(model, LanguageModel)
    return model


def stepped(model: LanguageModel) -> np.ndarray:
    """Logits (time, vocab) of the lowered float32 model on LiteRT, one token after the other."""
    session = open_session(lower(model).tflite)
    return np.array([row.copy() for row in session.stream(IDS.tolist())])


def check(theirs: Any, folder: Path) -> LanguageModel:
    """Reads a folder and holds its full pass and its steps against transformers."""
    model, wanted = read(folder), framework_logits(theirs, IDS)
    np.testing.assert_allclose(logits(model, IDS[None])[0], wanted, atol=MAX_DIFFERENCE)
    np.testing.assert_allclose(stepped(model), wanted, atol=MAX_DIFFERENCE)
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A folder of a llama, free to be damaged."""
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = build(case)
    check(theirs, save(theirs, tmp_path))


def test_every_architecture_has_a_case() -> None:
    assert {case.split(",")[0] for case in CASES} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", ["llama", "gpt2", "gpt_neox", "gemma, old gelu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_lose_nothing(case: str, dtype: str, tmp_path: Path) -> None:
    theirs = build(case)
    model = check(theirs, save(theirs, tmp_path, dtype))
    assert model.weights["embedding.weight"].dtype.name == dtype  # as stored, mapped


def test_shards_are_one_model(tmp_path: Path) -> None:
    theirs = build("qwen3")
    folder = save(theirs, tmp_path, max_shard_size=4000)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    check(theirs, folder)


@pytest.mark.parametrize("case", ["llama, tied as smollm", "gpt2", "opt", "gpt_neox"])
def test_names_may_lack_their_prefix(case: str, tmp_path: Path) -> None:
    theirs = build(case)
    folder = save(theirs, tmp_path)
    prefixes = ARCHITECTURES[case.split(",")[0]].prefixes
    retensored(folder, lambda name, tensor: {name.removeprefix(next((p for p in prefixes if name.startswith(p)), "")): tensor})
    check(theirs, folder)


def test_masks_that_old_checkpoints_store_are_left_out(tmp_path: Path) -> None:
    theirs = build("gpt2")
    folder = save(theirs, tmp_path)
    mask = np.ones((1, 1, 48, 48), np.float32)
    retensored(folder, lambda name, tensor: {name: tensor} | ({"transformer.h.0.attn.bias": mask} if name.endswith("wte.weight") else {}))
    check(theirs, folder)


@pytest.mark.parametrize(
    ("case", "keys"),
    [
        ("llama, tied as smollm", {"rope_theta": 1e5, "rope_scaling": None}),
        ("gpt_neox", {"rotary_emb_base": 10_000, "rotary_pct": 1 / 3}),
        ("phi", {"rope_theta": 10_000.0, "partial_rotary_factor": 2 / 3}),
    ],
)
def test_keys_of_transformers_4(case: str, keys: dict[str, Any], tmp_path: Path) -> None:
    theirs = build(case)
    folder = save(theirs, tmp_path)
    change_config(folder, rope_parameters=None, **keys)
    check(theirs, folder)


def test_a_window_limits_the_context(tmp_path: Path) -> None:
    theirs = build("mistral, window")
    folder = save(theirs, tmp_path)
    change_config(folder, sliding_window=8)
    model = read(folder)
    assert model.spec.family == "transformer"
    assert model.spec.max_positions == 8
    assert model.origin is not None
    assert "slides over 8 tokens" in model.origin.why


def test_the_report_names_the_table_and_claims_no_proof(llama: Path) -> None:
    imported = huggingface.read(llama)
    origin = imported.model.origin
    assert origin is not None
    assert (origin.format, origin.way, origin.proof) == ("huggingface", "lifted", None)
    assert "LlamaForCausalLM" in origin.why
    np.testing.assert_array_equal(imported.source_logits(IDS[None].astype(np.int32)), logits(read(llama), IDS[None]))


def test_a_folder_and_its_weights_file_are_the_same_source(llama: Path) -> None:
    by_folder, by_file = source.load(llama).model, source.load(llama / "model.safetensors").model
    assert isinstance(by_folder, LanguageModel)
    assert isinstance(by_file, LanguageModel)
    assert by_folder.spec == by_file.spec
    assert (by_folder.name, by_folder.source_sha256) == (by_file.name, by_file.source_sha256)


def test_a_folder_keeps_the_dot_in_its_name(folder: Path) -> None:
    folder.joinpath("tiny-1.7B").mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).rename(folder / "tiny-1.7B" / file)
    assert source.load(folder / "tiny-1.7B").model.name == "tiny-1.7B"


def test_other_formats_beside_the_weights_are_not_hashed(folder: Path) -> None:
    before = source.content_sha256(folder)
    (folder / "pytorch_model.bin").write_bytes(b"gigabytes")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.json").write_text("{}")
    assert source.content_sha256(folder) == before
    change_config(folder, rms_norm_eps=1e-4)
    assert source.content_sha256(folder) != before


def test_weights_are_mapped_not_read(llama: Path) -> None:
    weight = read(llama).weights["layers.0.q.weight"]
    assert not weight.flags.owndata
    assert not weight.flags.writeable


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"model_type": "falcon", "architectures": ["FalconForCausalLM"]},
            r"architecture falcon is not known(.|\n)*gpt2, llama(.|\n)*onnx",
        ),
        ({"model_type": None}, "has no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "no language model with a head"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "scaled by 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scaled by 'dynamic'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ from layer to layer"),
        ({"partial_rotary_factor": 0.5}, "turns whole heads"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps = inf"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"num_key_value_heads": 3}, "no multiple of kv_heads"),
        ({"rope_parameters": [1]}, "a table or null"),
        ({"num_hidden_layers": 2_000_000_000}, "too few for the 2000000000 layers"),
        ({"num_hidden_layers": 1}, r"tensor layers\.1\..* has no place"),
        ({"num_hidden_layers": 3}, r"tensor layers\.2\..* is missing"),
        ({"vocab_size": 30}, r"embed_tokens\.weight is \(29, 24\)"),
        ({"attention_bias": True}, r"q_proj\.bias is missing"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized by gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized by bitsandbytes"),
    ],
)
def test_configs_that_do_not_fit_are_refused_by_name(keys: dict[str, Any], message: str, folder: Path) -> None:
    change_config(folder, **keys)
    with pytest.raises(EdgeLMError) as caught:
        huggingface.read(folder)
    assert caught.match(message)


@pytest.mark.parametrize("kind", REFUSED)
def test_known_strangers_are_refused_with_the_reason(kind: str, folder: Path) -> None:
    change_config(folder, model_type=kind)
    with pytest.raises(UnsupportedModelError) as caught:
        huggingface.read(folder)
    assert REFUSED[kind] in str(caught.value)
    assert ".onnx" in caught.value.fix


@pytest.mark.parametrize(
    ("case", "keys", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled differently in each layer"),
        ("opt", {"word_embed_proj_dim": 12}, "opt-350m"),
        ("opt", {"layer_norm_elementwise_affine": False}, "no weights"),
        ("phi", {"qk_layernorm": True}, "layer norms"),
        ("gemma", {"use_bidirectional_attention": True}, "no causal model"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.1}}, "an even part of the head"),
    ],
)
def test_variants_that_compute_something_else_are_refused(case: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = save(build(case), tmp_path)
    change_config(folder, **keys)
    with pytest.raises(UnsupportedModelError, match=message):
        huggingface.read(folder)


def only(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / name)

    return change


def without_config(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only("pytorch_model.bin"), r"pytorch_model\.bin only(.|\n)*safe_serialization=True"),
        (only("tf_model.h5"), r"tf_model\.h5 only"),
        (only("consolidated.safetensors"), r"has consolidated\.safetensors, but no model\.safetensors"),
        (only("weights"), "has no weights"),
        (without_config, r"is an adapter \(LoRA\)(.|\n)*merge_and_unload"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no table"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "is no JSON"),
    ],
)
def test_folders_without_usable_files_are_refused(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(SourceError) as caught:
        source.load(folder)
    assert caught.match(message)


def test_a_tensor_of_integers_is_refused(folder: Path) -> None:
    retensored(folder, lambda name, tensor: {name: tensor.astype(np.int8) if "q_proj" in name else tensor})
    with pytest.raises(SourceError, match="dtype I8 cannot be read"):
        huggingface.read(folder)


def test_a_tensor_of_no_place_is_refused(folder: Path) -> None:
    retensored(folder, lambda name, tensor: {name: tensor} | ({f"{name}.lora_A": tensor} if "layers.0.self_attn.q_proj" in name else {}))
    with pytest.raises(UnsupportedModelError, match=r"lora_A of the checkpoint has no place"):
        huggingface.read(folder)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save(build("llama"), tmp_path, max_shard_size=4000)


def set_shard(folder: Path, tensor: str, shard: object) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][tensor] = shard
    path.write_text(json.dumps(index))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[2]
    shard.unlink()
    with pytest.raises(SourceError, match=f"shard {shard.name} is missing"):
        huggingface.read(sharded)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "a/../../b", "..", "", "\0", "..\\x"])
def test_shards_outside_of_the_folder_are_refused(name: str, sharded: Path) -> None:
    set_shard(sharded, "model.norm.weight", name)
    with pytest.raises(SourceError, match="not inside the folder"):
        huggingface.read(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    set_shard(sharded, "model.extra.weight", sorted(sharded.glob("model-*.safetensors"))[0].name)
    with pytest.raises(SourceError, match=r"has no tensor model\.extra\.weight"):
        huggingface.read(sharded)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}])
def test_an_index_without_a_map_is_refused(weight_map: object, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(SourceError, match="no weight_map"):
        huggingface.read(sharded)
