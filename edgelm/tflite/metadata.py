"""Files inside a .tflite: the tokenizer and the manifest travel with the weights.

TFLite's convention (https://ai.google.dev/edge/litert/models/metadata): the FlatBuffer is followed by a ZIP archive, so that
`unzip model.tflite` lists the files and runtimes, which read from the front, don't see them; a `TFLITE_METADATA` entry in the model
names them. The ZIP comes last, so offsets of weights stay valid.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import flatbuffers

from edgelm.errors import ArtifactError

METADATA_NAME = "TFLITE_METADATA"
"""Name of the `Model.metadata` entry that `model_metadata` is stored under."""

# metadata_schema.fbs 1.1.0 of tensorflow/tflite-support: the places of the fields we write.
_METADATA_IDENTIFIER = b"M001"
_MODEL_FIELDS = 8
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_FILES, _MODEL_MIN_PARSER = 0, 1, 6, 7
_FILE_FIELDS = 4
_FILE_NAME, _FILE_DESCRIPTION = 0, 1
_MIN_PARSER_VERSION = "1.0.0"

_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest a ZIP can hold: equal files give equal bytes
_MOST_BYTES = 1 << 28  # of all files, unpacked: far above any tokenizer, far below what a ZIP bomb wants


def model_metadata(name: str, description: str, files: Mapping[str, str]) -> bytes:
    """The FlatBuffer of a `TFLITE_METADATA` entry.

    Args:
        name: Of the model.
        description: Of the model.
        files: Name -> description of each associated file.

    Example:
        >>> model_metadata("keyboard", "a language model", {"tokenizer.json": "the vocabulary"})[4:8]
        b'M001'
    """
    builder = flatbuffers.Builder(256)
    tables = [_associated_file(builder, file, text) for file, text in files.items()]
    file_vector = _offset_vector(builder, tables)
    texts = {
        _MODEL_NAME: builder.CreateString(name),
        _MODEL_DESCRIPTION: builder.CreateString(description),
        _MODEL_MIN_PARSER: builder.CreateString(_MIN_PARSER_VERSION),
    }
    builder.StartObject(_MODEL_FIELDS)
    for field, offset in {**texts, _MODEL_FILES: file_vector}.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    builder.Finish(builder.EndObject(), _METADATA_IDENTIFIER)
    return bytes(builder.Output())


LARGE = 1 << 20
"""Bytes of an attached file (the tokenizer of a large vocabulary) for whose deflation the highest level takes long and gains little."""


def attach(model: bytes, files: Mapping[str, bytes]) -> bytes:
    """Appends `files` to a .tflite as a ZIP archive, deflated; equal inputs give equal bytes.

    Raises:
        ArtifactError: The model carries files already.
    """
    if zipfile.is_zipfile(io.BytesIO(model)):
        raise ArtifactError("the .tflite model carries associated files already", fix="attach to the model without them")
    stream = _Behind(len(model))
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _FIXED_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, on every machine
            archive.writestr(entry, content, compresslevel=9 if len(content) < LARGE else 5)
    return model + stream.getvalue()


class _Behind(io.BytesIO):
    """What is written behind a model: an archive counts its places from the model's begin, and needs no copy of it."""

    def __init__(self, begin: int) -> None:
        super().__init__()
        self._begin = begin

    def tell(self) -> int:
        return self._begin + super().tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._begin + super().seek(offset - self._begin if whence == io.SEEK_SET else offset, whence)


def read_attached(data: bytes) -> dict[str, bytes]:
    """The files that `attach` (or TFLite's own metadata writer) appended: name -> content; empty when there are none.

    Raises:
        ArtifactError: The archive is corrupt, or unpacks to over 256 MiB.
    """
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream):
        return {}
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                limit = f"{_MOST_BYTES >> 20} MiB"
                raise ArtifactError(f"the files inside the .tflite model unpack to over {limit}", allowed=f"up to {limit}")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"the files inside the .tflite model cannot be read ({error})", fix="convert the model again") from error


def _associated_file(builder: flatbuffers.Builder, name: str, description: str) -> int:
    texts = {_FILE_NAME: builder.CreateString(name), _FILE_DESCRIPTION: builder.CreateString(description)}
    builder.StartObject(_FILE_FIELDS)
    for field, offset in texts.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    return int(builder.EndObject())


def _offset_vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
