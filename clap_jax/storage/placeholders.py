"""Detects placeholders of files: Git LFS pointers and web pages."""

from typing import IO

from clap_jax.storage.untrusted import UntrustedFileError

_HEAD_BYTES = 512
_KINDS = (
  (
    b"version https://git-lfs.github.com/",
    "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`, or "
    "download it again",
  ),
  (
    b"<!doctype html",
    "a web page, not the file itself: the download was answered with an error "
    "or a login; download it again",
  ),
  (b"<html", "a web page, not the file itself; download it again"),
  (
    b"<?xml",
    "an XML document, not the file itself: the download was answered with an "
    "error; download it again",
  ),
)


def check(file: IO[bytes], *, name: object) -> None:
  """Refuses a placeholder in place of a file.

  Args:
    file: file at its beginning, where it is left.

  Raises:
    UntrustedFileError: it is a Git LFS pointer or a web page.
  """
  head = file.read(_HEAD_BYTES)
  file.seek(0)
  start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
  for begin, meaning in _KINDS:
    if start.startswith(begin):
      raise UntrustedFileError(f"{name} is {meaning}")
