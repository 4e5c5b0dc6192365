"""Indexes a folder of videos and searches it by text.

INDEX/index.json lists the videos, INDEX/vectors.npy holds one unit vector of
the towers' shared space per clip, (n, p) float16, and is mapped rather than
read. INDEX/videos/<sha256>.npz keeps each video's own vectors, so that a second
call encodes only what is new, and a killed one goes on.

Search is exact: every clip of every video is compared with the query. Two
million clips, about 280 hours at a stride of half a second, are one product of
a matrix with a vector.
"""

import dataclasses
import functools
import heapq
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clap_jax.data import features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import index_files, shots, streaming
from clap_jax.media import errors
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.storage import locations, untrusted

# Clips whose scores are computed at a time: what a core's cache holds.
_ROWS_PER_BLOCK = 1 << 10
# A moment reaches as far as the score stays above this share of the way from
# the video's median to the moment's best clip.
_EXTENT_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class IndexedVideo:
  """A video and its rows in the matrix of vectors."""

  path: str
  sha256: str
  duration_sec: float
  first: int
  count: int


@dataclasses.dataclass(frozen=True)
class Index:
  """An opened index."""

  directory: pathlib.Path
  encoder_directory: str
  parameters: str  # the encoder's fingerprint
  stride_sec: float
  clip_sec: float
  videos: tuple[IndexedVideo, ...]
  failed: tuple[dict, ...]  # {"video", "reason"}
  vectors: np.ndarray  # float16 (n, p), memory-mapped

  @property
  def num_hours(self) -> float:
    return sum(video.duration_sec for video in self.videos) / 3600

  @property
  def grid(self) -> features.FeatureGrid:
    return features.FeatureGrid(
      start_sec=0.0, stride_sec=self.stride_sec, clip_sec=self.clip_sec
    )


def build(
  encoder: encoder_lib.Encoder,
  videos: list[pathlib.Path],
  *,
  out: str | os.PathLike,
  stride_sec: float,
  failed: Sequence[dict] = (),
  on_video: Callable[[str], None] | None = None,
  limits: VideoLimits = DEFAULT_LIMITS,
  on_progress: Callable[[int, int], None] | None = None,
) -> Index:
  """Encodes what the index does not hold yet and writes it.

  The index then lists exactly `videos`; vectors of others stay in its folder.

  Args:
    encoder: of the clips and of the texts that are searched for.
    videos: one that cannot be decoded is listed with the reason.
    stride_sec: between clips.
    failed: {"video", "reason"} of videos that are not to be read.
    on_video: called with the name of a video before work on it begins.
    limits: caps on what is decoded.
    on_progress: called with (videos done, videos in all).

  Raises:
    ValueError: a file of the folder is a link or damaged.
    FileExistsError: the folder is an index of another encoder or stride, or no
      index at all.
  """
  out = locations.at(out)
  metadata = _claim(out, encoder, stride_sec)
  listed, blocks, first = [], [], 0
  failed = list(failed)
  for done, path in enumerate(videos):
    if on_video:
      on_video(str(path))
    try:
      digest, vectors, duration_sec = _vectors_of(
        path, encoder, out, stride_sec=stride_sec, limits=limits
      )
      listed.append(
        IndexedVideo(
          str(path.absolute()), digest, duration_sec, first, len(vectors)
        )
      )
      blocks.append(vectors)
      first += len(vectors)
    except _UnusableVideoError as error:
      failed.append({"video": str(path), "reason": str(error)})
    if on_progress:
      on_progress(done + 1, len(videos))
  width = encoder.config.projection_width
  matrix = np.concatenate([np.zeros((0, width), np.float16), *blocks])
  index_files.write_matrix(out, matrix)
  metadata |= {
    "videos": [dataclasses.asdict(video) for video in listed],
    "failed": failed,
  }
  index_files.write_metadata(out, metadata)
  return open_index(out)


def open_index(directory: str | os.PathLike) -> Index:
  """Opens what `build` wrote; the vectors are mapped, not read.

  Raises:
    FileNotFoundError: it is not a finished index.
    ValueError: a file is damaged, a link, or disagrees with another.
  """
  directory = locations.at(directory)
  if not index_files.is_finished(directory):
    raise FileNotFoundError(
      f"{directory} is not an index; make one with `clap index DIR --model DIR "
      f"--out {directory}`."
    )
  metadata = index_files.read_metadata(directory)
  videos = tuple(IndexedVideo(**entry) for entry in metadata["videos"])
  return Index(
    directory=directory,
    encoder_directory=metadata["encoder_directory"],
    parameters=metadata["parameters"],
    stride_sec=metadata["stride_sec"],
    clip_sec=metadata["clip_sec"],
    videos=videos,
    failed=tuple(metadata["failed"]),
    vectors=index_files.map_matrix(
      directory, num_rows=sum(video.count for video in videos)
    ),
  )


def search(index: Index, vector: np.ndarray, *, top: int) -> list[dict]:
  """The best moments of all videos for a unit vector (p,) of a text.

  A moment grows from its best clip to both sides while the score stays above
  half of the way up from its video's median; clips in a moment are spent. Its
  time runs from the middle of its first clip to that of its last, half a
  stride added on both sides, and ends with a shot where one ends nearby.

  Returns:
    Up to `top` of {"video", "start_sec", "end_sec", "score"}, best first; the
    score is the cosine of the best clip.
  """
  if top < 1:
    raise ValueError(f"top must be at least 1, got {top}.")
  if not index.videos:
    return []
  scores = _scores(index.vectors, vector)
  # A video's first moment has its highest score: only the `top` videos with
  # the highest ones can have a moment among the `top` best.
  highest = np.maximum.reduceat(scores, [v.first for v in index.videos])
  videos = [index.videos[i] for i in np.argsort(-highest)[:top]]
  candidates = (
    (*moment, video)
    for video in videos
    for moment in _moments(
      scores[video.first : video.first + video.count], top=top
    )
  )
  best = heapq.nlargest(top, candidates, key=lambda moment: moment[0])
  cuts_of = functools.cache(
    functools.partial(index_files.read_cuts, index.directory)
  )
  return [_moment(index, *moment, cuts_of=cuts_of) for moment in best]


def _moments(
  scores: np.ndarray, *, top: int
) -> Iterator[tuple[float, int, int]]:
  """(score, first clip, last clip) of one video, best first."""
  median = float(np.median(scores)) if len(scores) else 0.0
  free = np.ones(len(scores), bool)
  for _ in range(min(top, len(scores))):
    peak = int(np.where(free, scores, -np.inf).argmax())
    if not free[peak]:
      return
    score = float(scores[peak])
    enough = free & (scores >= median + _EXTENT_SHARE * (score - median))
    enough[peak] = True
    first, last = peak, peak
    while first > 0 and enough[first - 1]:
      first -= 1
    while last + 1 < len(scores) and enough[last + 1]:
      last += 1
    free[first : last + 1] = False
    yield score, first, last


def _moment(
  index: Index, score, first: int, last: int, video, *, cuts_of
) -> dict:
  ends = index.grid.to_seconds(np.array([[first - 0.5, last + 0.5]]))
  ((start_sec, end_sec),) = shots.snapped(
    np.clip(ends, 0.0, video.duration_sec),
    cuts_of(video.sha256),
    stride_sec=index.stride_sec,
  )
  return {
    "video": video.path,
    "start_sec": float(start_sec),
    "end_sec": float(end_sec),
    "score": score,
  }


def _scores(vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
  """Inner products with all rows, float32 (n,), block by block."""
  scores = np.empty(len(vectors), np.float32)
  vector = vector.astype(np.float32)
  wide = np.empty((_ROWS_PER_BLOCK, len(vector)), np.float32)
  for start in range(0, len(vectors), _ROWS_PER_BLOCK):
    block = vectors[start : start + _ROWS_PER_BLOCK]
    np.copyto(wide[: len(block)], block)
    np.matmul(
      wide[: len(block)], vector, out=scores[start : start + len(block)]
    )
  return scores


class _UnusableVideoError(ValueError):
  """A video that cannot be read or decoded."""


def _vectors_of(
  path: pathlib.Path, encoder, out: pathlib.Path, *, stride_sec, limits
) -> tuple[str, np.ndarray, float]:
  """SHA-256, vectors (n, p) float16 and duration, from the index if known."""
  try:
    digest = untrusted.hash_file(path, max_bytes=limits.max_bytes)
  except (untrusted.UntrustedFileError, OSError) as error:
    raise _UnusableVideoError(str(error)) from error
  known = index_files.read_video(
    out, digest, width=encoder.config.projection_width
  )
  if known is not None:
    return digest, *known
  try:
    encoded = streaming.encode_video(
      encoder, path, stride_sec=stride_sec, limits=limits
    )
  except (errors.VideoError, OSError) as error:
    raise _UnusableVideoError(str(error)) from error
  vectors = encoder.project(encoded.features).astype(np.float16)
  index_files.write_video(
    out,
    digest,
    vectors=vectors,
    duration_sec=encoded.duration_sec,
    cuts_sec=encoded.cuts_sec,
  )
  return digest, vectors, encoded.duration_sec


def _claim(out: pathlib.Path, encoder, stride_sec: float) -> dict:
  metadata = {
    "encoder_directory": str(encoder.directory.absolute()),
    "parameters": encoder.fingerprint,
    "stride_sec": stride_sec,
    "clip_sec": encoder.clip.clip_sec,
  }
  if index_files.is_claimed(out):
    old = index_files.read_metadata(out)
    changed = [
      key
      for key in ("parameters", "stride_sec", "clip_sec")
      if old[key] != metadata[key]
    ]
    if changed:
      raise FileExistsError(
        f"{out} is an index that differs in {', '.join(changed)}; use another "
        "folder, or delete this one."
      )
    return metadata
  if out.is_dir() and any(out.iterdir()):
    raise FileExistsError(f"{out} is not an index and not empty; use another.")
  out.mkdir(parents=True, exist_ok=True)
  # Written first, so that a stopped run is not mixed with another encoder's.
  index_files.write_metadata(out, metadata | {"videos": [], "failed": []})
  return metadata
