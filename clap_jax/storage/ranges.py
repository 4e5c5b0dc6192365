"""Reads byte ranges of objects with TensorStore, one request each.

Connections are pooled and requests are made in C++, so that many threads read
at once; transient failures are retried there a bounded number of times, with
random delays.
"""

import functools
import importlib
import os
import random
import time
from collections.abc import Sequence
from typing import Any

from clap_jax.storage import objects
from clap_jax.storage.locations import ObjectPath
from clap_jax.storage.objects import ObjectStorageError

_RETRIES = {"max_retries": 8, "initial_delay": "100ms", "max_delay": "8s"}
_CUT_ATTEMPTS = 4
_FIRST_WAIT_SEC = 0.1
_TIMEOUT_SEC = 120.0


def read(path: ObjectPath, start: int, num_bytes: int) -> bytes:
  """Returns bytes [start, start + num_bytes); fewer at the object's end.

  Raises:
    FileNotFoundError: the object does not exist.
    ObjectStorageError: the object cannot be read, even after retries.
  """
  return read_all(path, [(start, num_bytes)])[0]


def read_all(path: ObjectPath, spans: Sequence[tuple[int, int]]) -> list[bytes]:
  """Reads (start, number of bytes) spans concurrently.

  Errors as `read`.
  """
  store = _store(path.scheme, path.bucket)
  name = path.key.partition("/")[2]

  def request(start: int, num_bytes: int):
    return store.read(name, byte_range=slice(start, start + num_bytes))

  started = [request(*span) if span[1] > 0 else None for span in spans]
  return [
    b"" if first is None else _finish(path, request, first, *span)
    for first, span in zip(started, spans, strict=True)
  ]


def _finish(path: ObjectPath, request, answer, start, num_bytes) -> bytes:
  """Waits for an answer; retries a few times on failure."""
  for attempt in range(_CUT_ATTEMPTS):
    if attempt:
      time.sleep(_FIRST_WAIT_SEC * 2**attempt * random.random())
      answer = request(start, num_bytes)
    try:
      result = answer.result(_TIMEOUT_SEC)
    except (ValueError, TimeoutError, OSError) as error:
      if "OUT_OF_RANGE" in str(error):
        return _to_the_end(path, start)
      if attempt < _CUT_ATTEMPTS - 1 and not _is_final(error):
        continue
      raise ObjectStorageError(
        f"{path}, bytes {start} to {start + num_bytes}: {error}"
      ) from error
    if result.state == "missing":
      raise objects.missing(path.scheme, path.key)
    if len(result.value) == num_bytes:
      return result.value
  raise ObjectStorageError(
    f"{path}, bytes {start} to {start + num_bytes}: {len(result.value)} read, "
    f"{_CUT_ATTEMPTS} times"
  )


def _to_the_end(path: ObjectPath, start: int) -> bytes:
  size = path.stat().st_size
  return objects.read(path.scheme, path.key, min(start, size), size)


def _is_final(error: Exception) -> bool:
  return any(
    word in str(error)
    for word in ("PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT")
  )


@functools.cache
def _store(scheme: str, bucket: str) -> Any:
  """Returns TensorStore's key-value store of a bucket."""
  objects.check_package(scheme)
  tensorstore = importlib.import_module("tensorstore")
  spec: dict[str, Any] = {"bucket": bucket, "path": ""}
  if scheme == "gs":
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:  # which gcsfs reads, and TensorStore under another name
      os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
    spec |= {"driver": "gcs"}
  else:
    spec |= {"driver": "s3"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
      "AWS_ENDPOINT_URL"
    )
    if endpoint:
      spec["endpoint"] = endpoint
  retries = {"gs": "gcs_request_retries", "s3": "s3_request_retries"}[scheme]
  spec["context"] = {retries: _RETRIES}
  return tensorstore.KvStore.open(spec).result()
