from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgelm.errors import ArtifactError
from edgelm.package import output

FILES = {"README.md": b"read me", "src/main/a.java": b"class A {}"}


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_a_package_lists_its_files_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    output.write(tmp_path / "out", FILES, "android", force=False)
    marker = json.loads((tmp_path / "out" / output.MARKER).read_text())
    assert sorted(marker["files"]) == sorted(FILES)
    output.write(tmp_path / "out", {"README.md": b"other"}, "android", force=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", output.MARKER}
    assert leftovers(tmp_path) == []


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        output.write(tmp_path / name, FILES, "ios", force=False)
    contents = [{path.relative_to(tmp_path / n): path.read_bytes() for path in (tmp_path / n).rglob("*.*")} for n in ("one", "two")]
    assert contents[0] == contents[1]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ArtifactError, match="holds something else"):
            output.write(out, FILES, "android", force=force)
    (out / output.MARKER).write_text("{}")
    with pytest.raises(ArtifactError, match="holds something else"):
        output.write(out, FILES, "android", force=True)
    assert (out / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="is no folder"):
        output.write(out / "thesis.txt", FILES, "android", force=False)


def test_a_package_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    output.write(tmp_path / "out", FILES, "android", force=False)
    with pytest.raises(ArtifactError, match="something else than an earlier --cpp package"):
        output.write(tmp_path / "out", FILES, "cpp", force=True)


@pytest.mark.parametrize("name", ["src/main/a.java", "src/main/b.java", "notes.txt"])
def test_changes_by_hand_are_lost_only_by_force(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    output.write(out, FILES, "android", force=False)
    (out / name).write_text("changed")
    with pytest.raises(ArtifactError, match=f"was changed since edgelm wrote it: {name}") as caught:
        output.write(out, FILES, "android", force=False)
    assert "--force" in caught.value.fix
    assert (out / name).read_text() == "changed"
    output.write(out, FILES, "android", force=True)
    assert (out / "src/main/a.java").read_bytes() == FILES["src/main/a.java"]


def test_what_gradle_built_inside_and_what_was_deleted_is_no_change(tmp_path: Path) -> None:
    out = tmp_path / "out"
    output.write(out, FILES, "android", force=False)
    (out / "build" / "outputs").mkdir(parents=True)
    (out / "build" / "outputs" / "module.aar").write_bytes(b"aar")
    (out / "README.md").unlink()
    output.write(out, FILES, "android", force=False)
    assert not (out / "build").exists()


def test_a_link_to_a_folder_is_followed_and_a_link_inside_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    output.write(tmp_path / "out", FILES, "android", force=False)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "README.md").read_bytes() == b"read me"
    secret = tmp_path / "secret"
    secret.write_text("read me")
    (tmp_path / "real" / "README.md").unlink()
    (tmp_path / "real" / "README.md").symlink_to(secret)
    with pytest.raises(ArtifactError, match="was changed"):
        output.write(tmp_path / "out", FILES, "android", force=False)
    output.write(tmp_path / "out", FILES, "android", force=True)
    assert secret.read_text() == "read me"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ArtifactError, match="cannot be written"):
        output.write(tmp_path / "locked" / "out", FILES, "android", force=False)
