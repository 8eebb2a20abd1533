"""What a .tflite asks of the runtime that the app ships, checked without running it.

Some files load on an old runtime and compute garbage, and some only fail on the phone; these checks find both from the file and the
device profile alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm.device.profile import DeviceProfile, RuntimeInfo, RuntimeName
from edgelm.errors import ArtifactError
from edgelm.report import Check, Table
from edgelm.tflite.reader import OpInfo, TensorInfo, TfliteModel, read
from edgelm.tflite.versions import RUNTIMES, required_versions, unsupported_ops
from edgelm.validate.delegation import delegation_table
from edgelm.validate.file_facts import FileFacts, file_facts

FLATBUFFER_LIMIT = 2**31
"""FlatBuffers count with signed 32-bit offsets."""
LITERT_MIN_API = 24
TFLITE_MIN_API = 21
FLOAT16_OPS = frozenset({"DEQUANTIZE", "CAST", "BITCAST", "GATHER"})
OLD_FLOAT16_OPS = frozenset({"DEQUANTIZE"})
DECIDES = frozenset({"op versions", "row scales", "weight types", "builtin ops only", "no sparse integer weights", "under 2 GB"})
"""Checks without which a runtime refuses the file or computes garbage."""
RUNTIME_VERSIONS: Mapping[RuntimeName, str] = {"ai-edge-litert": "2.1.0", "tflite-runtime": "2.14.0"}
"""The runtimes edgelm itself is installed with."""
DOT_PRODUCT_ISAS = ("dotprod", "i8mm")


@dataclass(frozen=True)
class PreflightResult:
    """What the report says of a file before anything runs.

    Attributes:
        checks: `passed` is None for what could not be checked.
        tables: Ops and XNNPACK, and notes for the app.
    """

    checks: tuple[Check, ...]
    tables: tuple[Table, ...]

    @property
    def runs(self) -> bool:
        """The runtime loads the file and its numbers can be trusted; what only concerns the phone may still fail."""
        return all(check.passed is not False for check in self.checks if check.name in DECIDES)


@dataclass(frozen=True)
class _Subject:
    """What every check looks at."""

    model: TfliteModel
    facts: FileFacts
    profile: DeviceProfile
    convert: str

    @property
    def old(self) -> bool:
        return self.profile.runtime.name == "tflite-runtime"

    def tensors(self, op: OpInfo) -> list[TensorInfo]:
        return [self.model.tensors[op.subgraph][index] for index in op.inputs if index >= 0]

    def ship_litert(self) -> str:
        return f"{self.convert}, or ship ai-edge-litert with the app and say so in the profile's [runtime]"


def preflight(model: bytes | Path, profile: DeviceProfile, *, source: str = "MODEL") -> PreflightResult:
    """Checks a .tflite against the runtime and device of a profile.

    Args:
        model: A .tflite file, or its bytes.
        profile: The device and the runtime its app ships.
        source: What the user converted, for the commands in the report.

    Returns:
        Checks that fail name their cause and the next command.

    Raises:
        ArtifactError: The file cannot be read.
    """
    try:
        data = model if isinstance(model, bytes) else model.read_bytes()
    except OSError as error:
        raise ArtifactError(f"model {model!s} cannot be read: {error.strerror}") from error
    recipe = "int8-tflite2.14" if profile.runtime.name == "tflite-runtime" else "int8"
    convert = f"edgelm convert {source} --recipe {recipe} --target {profile.name}"
    subject = _Subject(read(data), file_facts(data), profile, convert)
    checks = tuple(check(subject) for check in CHECKS)
    table = delegation_table(subject.model, profile.runtime.name, profile.runtime.delegate)
    return PreflightResult(checks, (table, _notes(subject)))


def runtimes(model: bytes | Path, profile: DeviceProfile) -> tuple[str, ...]:
    """Names of the installed runtimes that can run a file: the profile's first, whatever it is, then the other if it can.

    Args:
        model: A .tflite file, or its bytes.
        profile: The device and the runtime its app ships.

    Raises:
        ArtifactError: The file cannot be read.
    """
    first = profile.runtime.name
    others = (RuntimeInfo(name, version) for name, version in RUNTIME_VERSIONS.items() if name != first)
    able = (other.name for other in others if preflight(model, replace(profile, runtime=other)).runs)
    return (first, *able)


def _first_of(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _verdict(name: str, good: str, cause: str, fix: str, limit: str | None = None) -> Check:
    """A check that failed if there is a cause."""
    return Check(name, "refused" if cause else good, limit, "", not cause, "read", cause, fix if cause else "")


def known_runtime(profile: DeviceProfile) -> str | None:
    """The newest runtime with known op versions that the profile's is not older than; None when there is none.

    Newer runtimes keep old op versions, so that what runs on 2.1 runs on 2.3.
    """

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))

    fitting = [known for known in RUNTIMES if known.startswith(f"{profile.runtime.name} ")]
    fitting = [known for known in fitting if number(known.split()[1]) <= number(profile.runtime.version)]
    return max(fitting, key=lambda known: number(known.split()[1])) if fitting else None


def _op_versions(subject: _Subject) -> Check:
    known, runtime = known_runtime(subject.profile), subject.profile.runtime.key
    if known is None:
        return Check("op versions", f"not known for {runtime}", None, "", None, "read")
    lacking = unsupported_ops(known, required_versions(subject.model.op_versions))
    named = ", ".join(f"{op} version {needs} (has {f'up to {has}' if has else 'none'})" for op, (needs, has) in lacking.items())
    return _verdict("op versions", "all known", f"{runtime} lacks {named}" if named else "", subject.ship_litert(), runtime)


def _row_scales(subject: _Subject) -> Check:
    """Per-row integer weights on 2.14: the one file that lies. The scales are looked at, not the version the file declares."""
    bad = sorted(set(_per_row_weights(subject))) if subject.old else []
    cause = ""
    if bad:
        cause = (
            f"{_first_of(bad)}: {subject.profile.runtime.key} knows no integer weights with one scale a row; it refuses the op version "
            "such a graph needs, and with an older version on the label the file loads and silently returns zeros or garbage"
        )
    return _verdict("row scales", "understood", cause, subject.ship_litert())


def _per_row_weights(subject: _Subject) -> Iterator[str]:
    for op in subject.model.ops:
        if op.name in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP"):
            for weight in subject.tensors(op):
                scaled = weight.quantization is not None and (weight.quantization.scales.size > 1 or weight.quantization.block_size > 0)
                if weight.nbytes and scaled and weight.dtype in ("int8", "int4"):
                    yield f"{weight.name} ({op.name} version {op.version})"


def _weight_types(subject: _Subject) -> Check:
    half_ops = OLD_FLOAT16_OPS if subject.old else FLOAT16_OPS
    cause = ""
    for op in subject.model.ops:
        for tensor in subject.tensors(op):
            if tensor.dtype == "int4" and subject.old:
                cause = cause or f"{tensor.name} is {tensor.dtype}: {subject.profile.runtime.key} has no 4-bit kernels, by row or by block"
            if tensor.dtype == "float16" and op.name not in half_ops:
                cause = cause or f"{op.name} reads {tensor.name} as float16, which {subject.profile.runtime.key} cannot"
    return _verdict("weight types", "all known", cause, subject.ship_litert())


def _custom_ops(subject: _Subject) -> Check:
    flex, custom = subject.model.flex_ops, subject.model.custom_ops
    cause = ""
    if flex:
        cause = f"{', '.join(flex)}: TensorFlow ops, which need the Flex delegate and tens of MB of TensorFlow in the app"
    elif custom:
        cause = f"{', '.join(custom)}: custom ops, which the app would have to register itself"
    return _verdict("builtin ops only", "yes", cause, subject.convert)


def _static_shapes(subject: _Subject) -> Check:
    named = subject.facts.dynamic_inputs
    cause = (
        f"input {_first_of(named)}: a size is only known while running, so that the app has to resize it before each run" if named else ""
    )
    return _verdict("static shapes", "all", cause, f"{subject.convert}: edgelm's own graphs have fixed shapes")


def _sparse_integers(subject: _Subject) -> Check:
    bad = [name for name, dtype in subject.facts.sparse_tensors if dtype != "float32"]
    cause = f"{bad[0]}: sparse integer weights fail to prepare or, in blocks of 16x1, are silently wrong on every runtime" if bad else ""
    return _verdict("no sparse integer weights", "none", cause, f"{subject.convert}: stored dense; the zeros still shrink the download")


def _batched_hybrid(subject: _Subject) -> Check:
    """Hybrid products over several rows crash tflite-runtime 2.14 on arm64 cores with dot products."""
    risky = subject.old and subject.profile.device.isa in DOT_PRODUCT_ISAS
    named = {signature.subgraph: signature.name for signature in subject.model.signatures}
    crashing = sorted({named.get(op.subgraph, "a loop body") for op in subject.model.ops if risky and _is_batched_hybrid(subject, op)})
    cause = ""
    if crashing:
        cause = (
            f"{', '.join(crashing)}: int8 weights times several rows at once crash {subject.profile.runtime.key} on cores with dot products"
        )
    return _verdict("products of several rows", "safe", cause, f"{subject.convert}: it writes no prefill signature; or ship ai-edge-litert")


def _is_batched_hybrid(subject: _Subject, op: OpInfo) -> bool:
    if op.name != "FULLY_CONNECTED":
        return False
    x, w = subject.tensors(op)[:2]
    rows = 1
    for size in x.shape[:-1]:
        rows *= max(size, 1)
    return x.dtype == "float32" and w.dtype in ("int8", "int4") and rows > 1


def _flatbuffer_size(subject: _Subject) -> Check:
    size = subject.model.nbytes
    cause = "" if size < FLATBUFFER_LIMIT else f"the file has {size / 1e9:.2f} GB; FlatBuffers end at 2.15 GB"
    return _verdict("under 2 GB", f"{size / 1e6:.2f} MB", cause, subject.convert)


def _android_version(subject: _Subject) -> Check:
    api = subject.profile.device.android_api
    if not api:
        return Check("Android version", "not Android", None, "", None, "read")
    lowest = TFLITE_MIN_API if subject.old else LITERT_MIN_API
    cause = (
        ""
        if api >= lowest
        else f"the AAR of {subject.profile.runtime.key} wants minSdk {lowest}, the profile's oldest device has API {api}"
    )
    return _verdict("Android version", f"API {api}", cause, f"raise device.android_api to {lowest} in the profile, or ship another runtime")


def _page_size(subject: _Subject) -> Check:
    device = subject.profile.device
    if not device.android_api or device.page_kb <= 4:
        return Check("memory pages", f"{device.page_kb} KB", None, "", None, "read")
    cause = f"the native library of {subject.profile.runtime.key} is aligned to 4 KB and does not load where pages have {device.page_kb} KB"
    return _verdict(
        "memory pages", f"{device.page_kb} KB", cause if subject.old else "", "ship ai-edge-litert (aligned to 16 KB since LiteRT 1.4.0)"
    )


CHECKS: tuple[Callable[[_Subject], Check], ...] = (
    _op_versions,
    _row_scales,
    _weight_types,
    _custom_ops,
    _static_shapes,
    _sparse_integers,
    _batched_hybrid,
    _flatbuffer_size,
    _android_version,
    _page_size,
)


def _notes(subject: _Subject) -> Table:
    """What no check can decide but the app's author should know."""
    rows: list[tuple[str, str]] = []
    facts, profile = subject.facts, subject.profile
    if facts.external_buffers:
        where = f"{facts.external_buffers} buffers lie outside the root table"
        text = f"{where}: TFLite 2.14 and later map them, an older one takes them for empty"
        rows.append(("weights", text))
    if any(dtype == "float32" for _, dtype in facts.sparse_tensors):
        rows.append(
            ("weights", "sparse float32 weights: smaller, and unpacked when the model is loaded unless XNNPACK has a sparse kernel")
        )
    if not subject.old and any(True for _ in _mislabelled(subject)):
        rows.append(
            (
                "op versions",
                f"{next(_mislabelled(subject))}: the label is too old; ai-edge-litert computes it rightly, tflite-runtime 2.14 would not",
            )
        )
    if len(subject.model.signatures) > 1:
        text = f"{len(subject.model.signatures)} signatures: each packs the weights again unless the app gives XNNPACK a weight cache file"
        rows.append(("memory", text))
    if profile.device.android_api:
        rows += _android_notes(subject)
    return Table("Notes for the app", ("about", "note"), tuple(rows))


def _mislabelled(subject: _Subject) -> Iterator[str]:
    wanted = {"FULLY_CONNECTED": 12, "EMBEDDING_LOOKUP": 4}
    for op in subject.model.ops:
        tensors = subject.tensors(op)
        hybrid = op.name in wanted and tensors[0].dtype != "int8" and op.version < wanted[op.name]
        if hybrid and any(t.nbytes and t.dtype in ("int8", "int4") and t.quantization and t.quantization.scales.size > 1 for t in tensors):
            yield f"{op.name} version {op.version} with a scale a row"


def _android_notes(subject: _Subject) -> list[tuple[str, str]]:
    pages = "since Android 15 phones may have 16 KB pages, and Google Play wants native libraries aligned to them: LiteRT's are since 1.4.0"
    old_pages = f"{pages}; those of TensorFlow Lite 2.14 are not, so that Google Play takes no app with it that targets Android 15"
    lowest = TFLITE_MIN_API if subject.old else LITERT_MIN_API
    return [
        ("pages", old_pages if subject.old else pages),
        (
            "APK",
            r"store the model undeflated, so that it can be mapped: aapt2 --no-compress-regex '\.tflite$', Gradle noCompress 'tflite'",
        ),
        ("minSdk", f"the AAR of {subject.profile.runtime.name} wants minSdk {lowest}"),
    ]
