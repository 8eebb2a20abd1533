"""What the `tokenizers` library raises, as `TokenizerError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgelm.errors import EdgeLMError, TokenizerError


@contextmanager
def library_errors(name: str) -> Iterator[None]:
    """Translates errors of the library while it reads or first uses the file `name`.

    The library raises bare `Exception` for bad input, and a panic of its Rust code arrives as a `BaseException` whose class cannot
    be imported.

    Raises:
        TokenizerError: Instead of either.
    """
    try:
        yield
    except EdgeLMError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{name} is refused by the tokenizers library: {error}", allowed="files written by tokenizers or sentencepiece"
        ) from error
