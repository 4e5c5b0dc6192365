"""Indexes a folder of videos and searches it by text.

INDEX/index.json lists the videos. INDEX/vectors.npy contains one unit vector of
the towers' shared space per clip, (n, p) float16, and is memory-mapped.
INDEX/videos/<sha256>.npz caches the vectors of each video: a later call encodes
only new videos, and an interrupted call can be resumed.

Search is exact: a matrix-vector product compares all clips of all videos with
the query. Two million clips are about 280 hours at a stride of half a second.
"""

import dataclasses
import functools
import heapq
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clap_jax.data import features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import index_files, shots, streaming
from clap_jax.media import errors
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.storage import locations, untrusted

# Clips scored at a time; a block fits into the cache of a core.
_ROWS_PER_BLOCK = 1 << 10
# A moment extends while the score is above this fraction of the way from the
# video's median to the moment's best clip.
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

  directory: locations.Location
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
  out: locations.PathLike,
  stride_sec: float,
  failed: Sequence[dict] = (),
  on_video: Callable[[str], None] | None = None,
  limits: VideoLimits = DEFAULT_LIMITS,
  on_progress: Callable[[int, int], None] | None = None,
) -> Index:
  """Encodes new videos and writes the index.

  The index then lists exactly `videos`; cached vectors of others remain in its
  folder.

  Args:
    videos: local videos; those that cannot be decoded are listed as failed.
    stride_sec: seconds between clips.
    failed: {"video", "reason"} of files that were rejected before.
    on_video: called with the name of each video before it is processed.
    limits: decoding limits.
    on_progress: called with (videos done, number of videos).

  Raises:
    ValueError: if a file of the folder is a link or damaged.
    FileExistsError: if the folder is an index of another encoder or stride, or
      contains other files.
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


def open_index(directory: locations.PathLike) -> Index:
  """Opens an index that `build` wrote and memory-maps its vectors.

  Raises:
    FileNotFoundError: if the folder contains no complete index.
    ValueError: if a file is damaged, a link, or contradicts another.
  """
  directory = locations.at(directory)
  if not index_files.is_finished(directory):
    raise FileNotFoundError(
      f"{directory} is not a complete index; build one with `clap index DIR "
      f"--model DIR --out {directory}`."
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
  """Finds the best moments of all videos for a unit vector (p,) of a text.

  A moment grows from its best clip to both sides while the score is above the
  middle between its video's median and the best clip; moments do not share
  clips. Its start and end are the middles of its first and last clip, half a
  stride farther out, moved to a nearby cut if there is one.

  Returns:
    Up to `top` of {"video", "start_sec", "end_sec", "score"}, best first; the
    score is the cosine of the best clip.

  Raises:
    ValueError: if `top` is below 1.
  """
  if top < 1:
    raise ValueError(f"top must be at least 1, got {top}.")
  if not index.videos:
    return []
  scores = _scores(index.vectors, vector)
  # A video's best moment has its highest score, so only the `top` videos with
  # the highest scores can have a moment among the `top` best.
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
  """Yields (score, first clip, last clip) of one video, best first."""
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
  """Computes inner products with all rows, float32 (n,), block by block."""
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
  """Raised if a video cannot be read or decoded."""


def _vectors_of(
  path: pathlib.Path, encoder, out: locations.Location, *, stride_sec, limits
) -> tuple[str, np.ndarray, float]:
  """Returns SHA-256, vectors (n, p) float16 and duration, cached if known."""
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
    encoded, duration_sec = streaming.encode_video(
      encoder, path, stride_sec=stride_sec, limits=limits
    )
  except (errors.VideoError, OSError) as error:
    raise _UnusableVideoError(str(error)) from error
  vectors = encoder.project(encoded.features).astype(np.float16)
  index_files.write_video(
    out,
    digest,
    vectors=vectors,
    duration_sec=duration_sec,
    cuts_sec=encoded.cuts_sec,
  )
  return digest, vectors, duration_sec


def _claim(out: locations.Location, encoder, stride_sec: float) -> dict:
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
        "folder, or remove this one."
      )
    return metadata
  if out.is_dir() and any(out.iterdir()):
    raise FileExistsError(
      f"{out} is not an index and not empty; use another folder."
    )
  out.mkdir(parents=True, exist_ok=True)
  # Written first, so that another encoder cannot resume an interrupted run.
  index_files.write_metadata(out, metadata | {"videos": [], "failed": []})
  return metadata
