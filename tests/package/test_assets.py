from __future__ import annotations

from pathlib import Path

import packed_models
import pytest

from edgelm import artifact
from edgelm.errors import ArtifactError
from edgelm.package import assets
from edgelm.package.subject import open_subject


def test_the_model_is_copied_and_updated(tmp_path: Path) -> None:
    folder = tmp_path / "app" / "src" / "main" / "assets"
    first = open_subject(packed_models.tiny(tmp_path / "lm"))
    path = assets.copy(first, folder, force=False)
    assert (path, path.read_bytes()) == (folder / "lm.tflite", first.artifact.tflite)
    update = open_subject(packed_models.tiny(tmp_path / "other" / "lm", "transformer"))
    assets.copy(update, folder, force=False)
    assert artifact.load(path).spec == update.artifact.spec
    assert [entry.name for entry in folder.iterdir()] == ["lm.tflite"]


def test_another_model_is_overwritten_only_by_force(tmp_path: Path) -> None:
    subject = open_subject(packed_models.tiny(tmp_path / "lm"))
    folder = tmp_path / "assets"
    folder.mkdir()
    for content in (b"somebody's model", open_subject(packed_models.tiny(tmp_path / "lm2")).artifact.tflite):
        (folder / "lm.tflite").write_bytes(content)
        with pytest.raises(ArtifactError, match="is another model") as caught:
            assets.copy(subject, folder, force=False)
        assert "--force" in caught.value.fix
        assert (folder / "lm.tflite").read_bytes() == content
    assets.copy(subject, folder, force=True)
    assert (folder / "lm.tflite").read_bytes() == subject.artifact.tflite


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    subject = open_subject(packed_models.tiny(tmp_path / "lm"))
    (tmp_path / "assets").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "assets" / "lm.tflite").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="is another model"):
        assets.copy(subject, tmp_path / "assets", force=False)
    assets.copy(subject, tmp_path / "assets", force=True)
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_is_no_assets_folder(tmp_path: Path) -> None:
    subject = open_subject(packed_models.tiny(tmp_path / "lm"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="is no folder"):
        assets.copy(subject, tmp_path / "file", force=False)
    with pytest.raises(ArtifactError, match="cannot be written"):
        assets.copy(subject, tmp_path / "file" / "assets", force=False)
