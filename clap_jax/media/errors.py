"""Words the decoder's errors for users."""

import contextlib
import errno
from collections.abc import Iterator

import av.error


class VideoError(ValueError):
  """A video that cannot be opened, is not acceptable, or breaks off."""


# A decoder that meets what its binding has no name for raises LookupError.
_OTHERS = (MemoryError, OSError, LookupError, ValueError, OverflowError)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
  """Turns the many exceptions of FFmpeg into VideoError with a reason."""
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
    "its data are damaged or not of the format that it claims",
  ),
  (
    av.error.PatchWelcomeError,
    "it uses a feature that the decoder does not support",
  ),
  (av.error.DecoderNotFoundError, "there is no decoder for its codec"),
)


def in_words(error: Exception) -> str:
  """The reason of an error that FFmpeg or its binding raised."""
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
