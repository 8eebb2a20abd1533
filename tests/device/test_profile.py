"""Device profiles: what is shipped, what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path

import pytest

from edgelm.device import profile as profiles
from edgelm.device.profile import DeviceProfile, available, load, parse
from edgelm.errors import ProfileError

SHIPPED = Path(profiles.__file__).parent.parent.parent / "device_profiles"
NAMES = {
    "android-arm64",
    "android-flagship-x3",
    "android-flagship-x4",
    "android-low-end",
    "android-mid-a76",
    "android-mid-a78",
    "android-tflite-2.14",
    "host",
    "raspberry-pi-4",
    "raspberry-pi-5",
}


def plain(name: str = "raspberry-pi-4") -> dict:
    return tomllib.loads((SHIPPED / f"{name}.toml").read_text())


def test_every_profile_of_the_plan_is_shipped():
    assert {profile.name for profile in available()} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_shipped_profile_round_trips(name):
    profile, table = load(name), plain(name)
    again = dataclasses.asdict(profile)
    assert list(again["latency"].pop("cache")) == table["latency"].pop("cache", [])
    for section, values in table.items():
        assert {key: again[section][key] for key in values} == values


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_figure_has_a_source_and_a_basis(name):
    for section, values in plain(name).items():
        figures = [value for value in values.values() if isinstance(value, int | float)]
        if figures:
            assert len(values["source"]) > 20, section  # a word or two is no source
            assert values["basis"] in ("estimated", "measured")


def test_the_phones_are_in_order():
    order = ["android-low-end", "android-mid-a76", "android-mid-a78", "android-flagship-x3", "android-flagship-x4"]
    speed = [load(name).latency.dram_gb_s for name in order]
    assert speed == sorted(speed)
    assert load("android-low-end").limits.size_mb < load("android-mid-a76").limits.size_mb


def test_a_path_is_read_and_named_by_its_stem(tmp_path):
    path = tmp_path / "my-phone.toml"
    path.write_text((SHIPPED / "android-arm64.toml").read_text())
    assert load(path) == dataclasses.replace(load("android-arm64"), name="my-phone")
    assert load(str(path)).name == "my-phone"


def test_limits_are_optional():
    table = plain()
    table["limits"] = {"basis": "estimated", "source": "none set"}
    assert parse(table, "p").limits.size_mb is None


def test_whole_numbers_are_figures_too():
    table = plain()
    table["limits"]["size_mb"] = 7
    assert parse(table, "p").limits.size_mb == 7.0


@pytest.mark.parametrize(
    ("typo", "nearest"), [("android-arm", "android-arm64"), ("raspbery-pi-5", "raspberry-pi-5"), ("android-tflite", "android-tflite-2.14")]
)
def test_an_unknown_name_suggests_the_nearest(typo, nearest):
    with pytest.raises(ProfileError, match=f"did you mean '{nearest}'") as caught:
        load(typo)
    assert "host" in caught.value.allowed


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("limits", "size_mib", "size_mb"),
        ("limits", "ms_per_tokens", "ms_per_token"),
        ("latency", "attention_gbs", "attention_gb_s"),
        ("device", "titel", "title"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(section, key, nearest):
    table = plain()
    table[section][key] = 1.0
    with pytest.raises(ProfileError, match=f"unknown key '{key}' in .{section}. .*did you mean '{nearest}'"):
        parse(table, "p")


def test_an_unknown_table_and_an_unknown_cache_key_are_refused():
    with pytest.raises(ProfileError, match=r"unknown table 'limit' .*did you mean 'limits'"):
        parse(plain() | {"limit": {}}, "p")
    table = plain()
    table["latency"]["cache"][0]["size"] = 1
    with pytest.raises(ProfileError, match="did you mean 'size_kb'"):
        parse(table, "p")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("limits", "size_mb", "25"),
        ("limits", "size_mb", -1.0),
        ("limits", "ms_per_token", math.nan),
        ("limits", "ms_per_token", math.inf),
        ("limits", "peak_memory_mb", True),
        ("device", "ram_mb", 1.5),
        ("device", "title", ""),
        ("device", "title", 3),
        ("device", "isa", "sve9"),
        ("runtime", "name", "tflite"),
        ("runtime", "name", ["ai-edge-litert"]),
        ("latency", "dram_gb_s", 0),
        ("latency", "functions_g_s", 0.0),
        ("latency", "int8_ragged", 1.5),
        ("latency", "uncertainty", 0.5),
        ("latency", "basis", "guessed"),
        ("latency", "cache", {"name": "L2"}),
    ],
)
def test_an_illegal_value_is_refused_by_key(section, key, value):
    table = plain()
    table[section][key] = value
    with pytest.raises(ProfileError, match=rf"{section}\.{key} of profile 'p'") as caught:
        parse(table, "p")
    assert caught.value.allowed


@pytest.mark.parametrize(("section", "key"), [("latency", "source"), ("limits", "basis"), ("device", "soc"), ("runtime", "version")])
def test_a_missing_key_is_named(section, key):
    table = plain()
    del table[section][key]
    with pytest.raises(ProfileError, match=f"lacks the key '{key}'"):
        parse(table, "p")


def test_a_missing_table_is_named():
    table = plain()
    del table["latency"]
    with pytest.raises(ProfileError, match=r"has no table \[latency\]"):
        parse(table, "p")


def test_cache_levels_go_from_small_to_large():
    table = plain("raspberry-pi-5")
    table["latency"]["cache"].reverse()
    with pytest.raises(ProfileError, match="smallest level first"):
        parse(table, "p")


def test_files_that_are_no_profile_are_refused(tmp_path):
    broken, binary = tmp_path / "a.toml", tmp_path / "b.toml"
    broken.write_text("[device\n")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, words in ((broken, "is no TOML"), (binary, "is not UTF-8"), (tmp_path / "c.toml", "does not exist")):
        with pytest.raises(ProfileError, match=words):
            load(path)


def test_profiles_are_found_inside_an_installed_package(monkeypatch, tmp_path):
    package = tmp_path / "edgelm"
    (package / "device").mkdir(parents=True)
    (package / "device_profiles").mkdir()
    (package / "device_profiles" / "wheel-phone.toml").write_text((SHIPPED / "host.toml").read_text())
    monkeypatch.setattr(profiles, "__file__", str(package / "device" / "profile.py"))
    assert [profile.name for profile in available()] == ["wheel-phone"]


def test_the_host_knows_itself():
    assert load("host").is_host
    assert not load("android-arm64").is_host
    assert isinstance(load("host"), DeviceProfile)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rates: rates.update(int9=3.0), "unknown key 'int9'"),
        (lambda rates: rates.pop("int4_block"), "lacks the key 'int4_block'"),
        (lambda rates: rates.update(float=0.0), r"latency\.one_row\.float of profile 'p' is 0"),
        (lambda rates: rates.update(int8="fast"), r"latency\.one_row\.int8 of profile 'p' is 'fast'"),
    ],
)
def test_the_rates_of_kernels_are_as_strict(change, words):
    table = plain()
    change(table["latency"]["one_row"])
    with pytest.raises(ProfileError, match=words):
        parse(table, "p")
