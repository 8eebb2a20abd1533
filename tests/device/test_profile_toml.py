"""Profiles written as TOML come back as they were."""

from __future__ import annotations

import dataclasses

import pytest

from edgelm.device import profile_toml
from edgelm.device.profile import available, load
from edgelm.errors import ProfileError


@pytest.mark.parametrize("shipped", available(), ids=lambda profile: profile.name)
def test_every_shipped_profile_survives_the_way_through_a_file(shipped, tmp_path):
    path = tmp_path / f"{shipped.name}.toml"
    profile_toml.write(shipped, path, comment="a comment")
    assert load(path) == shipped
    assert path.read_text().startswith("# a comment\n")


def test_texts_are_escaped_and_absent_limits_left_out(tmp_path):
    profile = load("android-arm64")
    odd = dataclasses.replace(profile.device, title='a "phone"\\ with\na line and é')
    limits = dataclasses.replace(profile.limits, size_mb=None, ms_per_token=None)
    changed = dataclasses.replace(profile, name="odd", device=odd, limits=limits, latency=dataclasses.replace(profile.latency, cache=()))
    profile_toml.write(changed, tmp_path / "odd.toml")
    assert load(tmp_path / "odd.toml") == changed


def test_a_profile_is_replaced_but_nothing_else(tmp_path):
    path, other = tmp_path / "p.toml", tmp_path / "other.toml"
    profile_toml.write(load("host"), path)
    profile_toml.write(load("android-arm64"), path)
    assert load(path).device.title == "Android phone, mid-range, arm64"
    other.write_text("[tool]\nname = 1\n")
    with pytest.raises(ProfileError, match="is no device profile"):
        profile_toml.write(load("host"), other)
    assert other.read_text() == "[tool]\nname = 1\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.toml", "p.toml"]


@pytest.mark.parametrize(("name", "words"), [("p.json", "does not end in .toml"), ("none/p.toml", "does not exist")])
def test_places_that_cannot_be_are_refused(name, words, tmp_path):
    with pytest.raises(ProfileError, match=words):
        profile_toml.write(load("host"), tmp_path / name)
