"""Device profiles: one phone a TOML file, with the runtime its app ships, the limits to hold and the figures of the latency model.

A profile has four tables, and every table with figures in it says where they come from::

    [device]                    # what the machine is
    title = "Raspberry Pi 4 Model B"
    soc = "Broadcom BCM2711"
    cores = "4x Cortex-A72 1.8 GHz"
    isa = "neon"                # neon | dotprod | i8mm | avx2 | avx512-vnni
    ram_mb = 4096
    android_api = 0             # 0: not Android
    page_kb = 4
    basis = "measured"
    source = "..."

    [runtime]                   # what the app ships
    name = "ai-edge-litert"     # or tflite-runtime
    version = "2.1.0"
    delegate = "xnnpack"        # or none

    [limits]                    # each is optional, all are upper limits
    size_mb = 10.0
    download_mb = 8.0
    ms_per_token = 20.0
    first_token_ms = 100.0
    peak_memory_mb = 60.0
    quality_loss_percent = 2.0
    basis = "estimated"
    source = "..."

    [latency]                   # of one thread on one big core
    dram_gb_s = 4.0
    int8_stream = 1.0
    int8_ragged = 1.0
    attention_gb_s = 4.0
    elementwise_gb_s = 10.0
    functions_g_s = 0.5
    per_op_us = 1.0
    per_product_us = 0.5
    per_own_op_us = 2.0
    per_call_us = 20.0
    uncertainty = 1.8
    isolated_factor = 1.3
    basis = "estimated"
    source = "..."
    [latency.one_row]           # products of a step: 10^9 operations a second
    int8 = 20.0
    int4 = 12.0
    int4_block = 12.0
    float = 8.0
    [latency.many_rows]         # products of a prefill
    int8 = 40.0
    int4 = 30.0
    int4_block = 20.0
    float = 10.0
    [[latency.cache]]           # smallest level first
    name = "L2"
    size_kb = 1024
    gb_s = 12.0

MB are 10^6 bytes and GB 10^9 bytes, as download sizes and memory bandwidths are given; KB of caches and pages are 1024 bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelm.device.latency_figures import CacheLevel, FigureBasis, LatencyModel, Throughput
from edgelm.errors import ProfileError

RuntimeName = Literal["ai-edge-litert", "tflite-runtime"]
Delegate = Literal["xnnpack", "none"]
Isa = Literal["neon", "dotprod", "i8mm", "avx2", "avx512-vnni"]

HOST = "host"
"""Name of the profile whose latency is measured on the machine edgelm runs on instead of estimated."""


@dataclass(frozen=True)
class DeviceInfo:
    """What the machine is.

    Attributes:
        title: For the report, such as `Raspberry Pi 5`.
        soc: The system on chip.
        cores: Clusters and clocks, such as `2x Cortex-A76 2.0 GHz + 6x Cortex-A55`.
        isa: What decides the int8 kernels: `neon` (ARMv8.0), `dotprod` (SDOT), `i8mm` (SMMLA), or the x86 kinds.
        ram_mb: Memory of the device, MB.
        android_api: API level the profile assumes; 0 when it is no Android device.
        page_kb: Memory page size, KB: 4, or 16 as Android 15 allows.
        basis: How the figures came about.
        source: Where they come from.
    """

    title: str
    soc: str
    cores: str
    isa: Isa
    ram_mb: int
    android_api: int
    page_kb: int
    basis: FigureBasis
    source: str


@dataclass(frozen=True)
class RuntimeInfo:
    """The runtime the app ships, which decides the op versions a file may use."""

    name: RuntimeName
    version: str
    delegate: Delegate = "xnnpack"

    @property
    def key(self) -> str:
        """`name version`, such as `tflite-runtime 2.14.0`."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Limits:
    """Upper limits; None means not limited.

    Attributes:
        size_mb: The .tflite, MB.
        download_mb: The .tflite compressed the way app stores do, MB.
        ms_per_token: One step with one token, ms.
        first_token_ms: From loading the file to the first logits, ms.
        peak_memory_mb: What the process grows by, MB.
        quality_loss_percent: Growth of the perplexity against the float model, %.
        basis: How the limits were found.
        source: Why they are what they are.
    """

    basis: FigureBasis
    source: str
    size_mb: float | None = None
    download_mb: float | None = None
    ms_per_token: float | None = None
    first_token_ms: float | None = None
    peak_memory_mb: float | None = None
    quality_loss_percent: float | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """One device an artifact is made for.

    Attributes:
        name: The file's stem, such as `android-arm64`.
        device: What the machine is.
        runtime: What the app ships.
        limits: What the artifact has to hold.
        latency: The figures the latency estimate uses.
    """

    name: str
    device: DeviceInfo
    runtime: RuntimeInfo
    limits: Limits
    latency: LatencyModel

    @property
    def is_host(self) -> bool:
        """Verdicts hold the figure measured on this machine, not the estimate, against the limits."""
        return self.name == HOST


def load(name_or_path: str | Path) -> DeviceProfile:
    """Reads a shipped profile by name, or any profile by path.

    Args:
        name_or_path: Such as `android-arm64`, or the path of a .toml file.

    Returns:
        The profile; its name is the file's stem.

    Raises:
        ProfileError: No such profile, no TOML, an unknown key (the nearest one is suggested), a missing key, or an illegal value.

    Example:
        >>> load("raspberry-pi-4").runtime.key
        'ai-edge-litert 2.1.0'
    """
    path = _find(name_or_path)
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"device profile {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"device profile {path} is not UTF-8 text: byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"device profile {path} is no TOML: {error}") from error
    return parse(plain, path.stem)


def available() -> tuple[DeviceProfile, ...]:
    """Every shipped profile, by name."""
    return tuple(load(path) for path in sorted(_folder().glob("*.toml")))


def parse(plain: Mapping[str, Any], name: str) -> DeviceProfile:
    """Checks the tables of a profile (see the top of this module) and builds it.

    Args:
        plain: What `tomllib` read.
        name: The profile's name, for its errors too.

    Raises:
        ProfileError: An unknown or missing key, or an illegal value, by key.
    """
    sections: dict[str, type[Any]] = {"device": DeviceInfo, "runtime": RuntimeInfo, "limits": Limits, "latency": LatencyModel}
    _refuse_unknown(plain, sections, f"profile {name!r}", "table")
    built: dict[str, Any] = {key: _build(kind, plain.get(key), key, name) for key, kind in sections.items()}
    profile = DeviceProfile(name, **built)
    _check_latency(profile)
    return profile


def _folder() -> Path:
    """`edgelm/device_profiles` of a wheel, or `device_profiles` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "device_profiles"
    return installed if installed.is_dir() else package.parent / "device_profiles"


OTHER_TARGETS = "edgelm profiles, or --target path/to/profile.toml; for servers --target onnx or saved-model"


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ProfileError(f"device profile {path} does not exist", fix="edgelm profiles")
    shipped = {file.stem: file for file in sorted(_folder().glob("*.toml"))}
    if path.name not in shipped:
        what = f"device profile {path.name!r} is not known{_nearest(path.name, shipped)}"
        raise ProfileError(
            what,
            allowed=", ".join(shipped),
            fix="edgelm profiles, or --target path/to/profile.toml; for servers --target onnx or saved-model",
        )
    return shipped[path.name]


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _refuse_unknown(plain: Mapping[str, Any], known: Iterable[str], where: str, kind: str) -> None:
    names = list(known)
    for key in plain:
        if key not in names:
            raise ProfileError(f"unknown {kind} {key!r} in {where}{_nearest(key, names)}", allowed=", ".join(names))


def _build(kind: type[Any], plain: object, table: str, profile: str) -> Any:
    """Builds the dataclass `kind` from the TOML table of its fields."""
    where = f"[{table}] of profile {profile!r}"
    if not isinstance(plain, Mapping):
        raise ProfileError(f"profile {profile!r} has no table [{table}]" if plain is None else f"{where} is no table")
    hints = typing.get_type_hints(kind)
    _refuse_unknown(plain, hints, where, "key")
    values: dict[str, object] = {}
    for field in dataclasses.fields(kind):
        if field.name in plain:
            values[field.name] = _value(plain[field.name], hints[field.name], f"{table}.{field.name}", profile)
        elif hints[field.name] == tuple[CacheLevel, ...]:
            values[field.name] = ()
        elif field.default is dataclasses.MISSING:
            raise ProfileError(f"{where} lacks the key {field.name!r}", allowed=", ".join(hints))
    return kind(**values)


def _value(value: object, hint: Any, key: str, profile: str) -> object:
    """Checks one TOML value against the type of its field."""
    if hint == tuple[CacheLevel, ...]:
        if not isinstance(value, list):
            raise ProfileError(f"{key} of profile {profile!r} is {value!r}", allowed="tables [[latency.cache]]")
        return tuple(_build(CacheLevel, level, key, profile) for level in value)
    if hint is Throughput:
        return _build(Throughput, value, key, profile)
    if hint is str:
        if not isinstance(value, str) or not value.strip():
            raise ProfileError(f"{key} of profile {profile!r} is {value!r}", allowed="a text that is not empty")
        return value
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            near = _nearest(value, choices) if isinstance(value, str) else ""
            raise ProfileError(f"{key} of profile {profile!r} is {value!r}{near}", allowed=", ".join(choices))
        return value
    return _number(value, whole=hint is int, key=key, profile=profile)


def _number(value: object, *, whole: bool, key: str, profile: str) -> int | float:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < 0:
        raise ProfileError(f"{key} of profile {profile!r} is {value!r}", allowed=f"a {'whole ' if whole else ''}number of at least 0")
    return value if whole else float(value)


def _check_latency(profile: DeviceProfile) -> None:
    """Refuses figures the roofline would divide by, and cache levels out of order."""
    model = profile.latency
    names = ("dram_gb_s", "int8_stream", "int8_ragged", "attention_gb_s", "elementwise_gb_s", "functions_g_s")
    divisors = {name: getattr(model, name) for name in names}
    for table in ("one_row", "many_rows"):
        divisors |= {f"{table}.{name}": value for name, value in dataclasses.asdict(getattr(model, table)).items()}
    divisors |= {f"cache.{level.name}.gb_s": level.gb_s for level in model.cache}
    divisors |= {f"cache.{level.name}.size_kb": level.size_kb for level in model.cache}
    for key, value in divisors.items():
        if value == 0:
            raise ProfileError(f"latency.{key} of profile {profile.name!r} is 0", allowed="a number over 0")
    for key in ("int8_stream", "int8_ragged"):
        if divisors[key] > 1:
            raise ProfileError(f"latency.{key} of profile {profile.name!r} is {divisors[key]}", allowed="a share over 0 and at most 1")
    for key, value in {"uncertainty": model.uncertainty, "isolated_factor": model.isolated_factor}.items():
        if value < 1:
            raise ProfileError(f"latency.{key} of profile {profile.name!r} is {value}", allowed="a factor of at least 1")
    sizes = [level.size_kb for level in model.cache]
    if sizes != sorted(sizes):
        raise ProfileError(f"latency.cache of profile {profile.name!r} has sizes {sizes}", allowed="the smallest level first")
