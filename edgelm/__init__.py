"""edgelm: language models that are proven to fit a phone.

`edgelm.load`, `compress_model`, `convert`, `check`, `session`, `suggest` and `complete` are `edgelm.api`'s, imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgelm.api import check, complete, compress_model, convert, load, session, suggest

__all__ = ["check", "complete", "compress_model", "convert", "load", "session", "suggest"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edgelm' has no attribute {name!r}")
    from edgelm import api

    return getattr(api, name)
