"""Translates errors of the decoder for users."""

import contextlib
import errno
from collections.abc import Iterator

import av.error


class VideoError(ValueError):
  """Raised if a video cannot be opened, is not accepted, or is truncated."""


# The binding raises LookupError for values that it has no name for.
_OTHERS = (MemoryError, OSError, LookupError, ValueError, OverflowError)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
  """Turns the exceptions of FFmpeg into VideoErrors with a reason."""
  try:
    yield
  except VideoError:
    raise
  except (av.error.FFmpegError, *_OTHERS) as error:
    raise VideoError(f"{what}: {in_words(error)}") from error


_WORDS = (
  (av.error.EOFError, "the file ends too early"),
  (
    av.error.InvalidDataError,
    "its data are damaged or not in the stated format",
  ),
  (
    av.error.PatchWelcomeError,
    "it uses a feature that the decoder does not support",
  ),
  (av.error.DecoderNotFoundError, "there is no decoder for its codec"),
)


def in_words(error: Exception) -> str:
  """Describes an error that FFmpeg or its binding raised."""
  if isinstance(error, MemoryError) or (
    getattr(error, "errno", None) == errno.ENOMEM
  ):
    return "it needs more memory than the limit allows"
  for kind, text in _WORDS:
    if isinstance(error, kind):
      return text
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if isinstance(error, ValueError):
    return str(error)
  return f"the decoder does not support it ({type(error).__name__})"
