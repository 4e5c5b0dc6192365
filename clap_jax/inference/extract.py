"""Extracts dense clip features of videos, one .npz per video.

Feature i is the tower's output for the clip that starts at i * stride_sec.
Other processes decode a bounded number of clips ahead. A video that cannot be
decoded is skipped, counted and listed.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np

from clap_jax.data import (
  class_texts,
  clip_reader,
  feature_reader,
  features,
  queries,
  records,
)
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import near_duplicates
from clap_jax.inference import texts as texts_lib
from clap_jax.media import decode, errors, guard
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits
from clap_jax.models import long_video
from clap_jax.storage import locations, output, tfrecord
from clap_jax.storage import metadata as metadata_lib
from clap_jax.training import ahead

Progress = Callable[[int, int], None]  # (videos done, number of videos)
_VIDEOS_AHEAD = 2  # videos decoded while one is encoded
_CLIPS_AHEAD = 32  # clips decoded ahead, per video


@dataclasses.dataclass(frozen=True)
class Extraction:
  """The result of `extract`: ids of written, kept and failed videos."""

  directory: locations.Location
  written: tuple[str, ...]
  kept: tuple[str, ...]  # written by an earlier call
  failed: tuple[dict, ...]  # {"id", "reason"}


def video_features(
  encoder: encoder_lib.Encoder, clips: Iterable[decode.DecodedClip]
) -> np.ndarray:
  """Encodes the streamed clips of one video to features (t, d).

  A tower of single frames encodes near-duplicate frames only once.
  """
  rows = []
  size = long_video.clips_per_device()
  gate = near_duplicates.Gate() if encoder.sees_single_frames else None
  for batch in _batched(gate(clips) if gate else clips, size):
    frames = np.stack([clip.frames for clip in batch])
    rows.append(encoder.clip_features(frames, size))
  features = np.concatenate(rows)
  rows.clear()  # the indexing below copies the features
  if gate is None or len(gate.places) == len(features):
    return features
  return features[gate.places]


def stream_clips(
  encoder: encoder_lib.Encoder,
  video,
  *,
  stride_sec: float,
  limits: VideoLimits = DEFAULT_LIMITS,
  finds_cuts: bool = False,
) -> guard.ClipStream:
  """Opens a stream of the encoder's clips of a video (bytes or a path)."""
  clip = encoder.clip
  shape = decode.ClipShape(
    clip_sec=clip.clip_sec,
    stride_sec=stride_sec,
    num_frames=clip.num_frames,
    size=clip.image_size,
    mode=clip.resize,
  )
  return guard.ClipStream(video, shape, limits=limits, finds_cuts=finds_cuts)


def extract(
  encoder: encoder_lib.Encoder,
  dataset: records.Dataset,
  *,
  out: locations.PathLike,
  stride_sec: float,
  splits: tuple[str, ...] | None = None,
  overwrite: bool = False,
  limits: VideoLimits = DEFAULT_LIMITS,
  on_progress: Progress | None = None,
) -> Extraction:
  """Writes features of every video and vectors of captions and class names.

  `<out>/<id>.npz` contains the features of a video, `<out>/texts/vectors.npz`
  all captions with their token vectors (n, l, d) and mask (n, l), and
  `<out>/texts/classes.npz` the class names in the shared space. A later call
  resumes an interrupted one.

  Args:
    stride_sec: seconds between clips.
    splits: splits to extract; None extracts all.
    overwrite: whether to replace existing features.

  Raises:
    FileExistsError: if `out` contains features of another encoder, dataset,
      stride or clip shape.
    ValueError: if the stride is not positive.
  """
  out = locations.at(out)
  if not stride_sec > 0:
    raise ValueError(f"stride_sec is {stride_sec}; expected seconds above 0.")
  sources = [dataset.split(s) for s in splits or dataset.splits]
  metadata = _claim(out, encoder, dataset, stride_sec, overwrite=overwrite)
  todo = [(source, i) for source in sources for i in range(len(source))]
  written, kept, failed = [], [], []
  grid = features.FeatureGrid(
    start_sec=0.0, stride_sec=stride_sec, clip_sec=encoder.clip.clip_sec
  )

  decode = functools.partial(
    stream_clips, encoder, stride_sec=stride_sec, limits=limits
  )
  videos = _decoded(todo, out, decode)
  with contextlib.closing(videos):
    for done, (name, clips, reason) in enumerate(videos):
      if reason is not None:
        failed.append({"id": name, "reason": reason})
      elif clips is None:
        kept.append(name)
      else:
        try:
          encoded = video_features(encoder, clips)
        except errors.VideoError as error:
          failed.append({"id": name, "reason": str(error)})
        else:
          if metadata["finished"]:  # by an earlier call for other splits
            metadata["finished"] = False
            _write_metadata(out, metadata)
          video = features.VideoFeatures(encoded, grid)
          features.save_features(out, name, video)
          written.append(name)
      if on_progress:
        on_progress(done + 1, len(todo))
  _write_texts(out, encoder, sources)
  classes = out / feature_reader.CLASSES_FILE
  if not classes.is_file():
    class_texts.save(classes, encoder.class_texts(dataset.label_names))
  # Failures that earlier calls listed for other splits are kept.
  done_ids = {*written, *kept, *(entry["id"] for entry in failed)}
  others = [e for e in metadata.get("failed", ()) if e["id"] not in done_ids]
  _write_metadata(
    out, metadata | {"failed": [*others, *failed], "finished": True}
  )
  return Extraction(out, tuple(written), tuple(kept), tuple(failed))


def _decoded(todo, out, decode) -> Generator[tuple, None, None]:
  """Yields (id, clips, reason of failure) of each record.

  Clips are None for a video whose features exist. The next videos are decoded
  up to a number of clips while the caller encodes one.
  """
  waiting: collections.deque = collections.deque()
  try:
    for source, index in todo:
      waiting.append(_start(source, index, out, decode))
      if len(waiting) > _VIDEOS_AHEAD:
        yield from _one(waiting)
    while waiting:
      yield from _one(waiting)
  finally:
    for _, clips, _ in waiting:
      if clips is not None:
        clips.close()


def _start(source, index: int, out, decode) -> tuple:
  try:
    example = source[index]
  except tfrecord.CorruptRecordError as error:
    infos = source.metadata(on_corrupt="skip").examples
    ids = {info.index: info.id for info in infos}
    name = ids.get(index, f"{source.name} record {index}")
    return name, None, str(error)
  if features.features_path(out, example.id).is_file():
    return example.id, None, None
  clips = ahead.Ahead(decode(example.video), depth=_CLIPS_AHEAD)
  return example.id, clips, None


def _one(waiting: collections.deque) -> Iterator[tuple]:
  entry = waiting.popleft()
  try:
    yield entry
  finally:
    if entry[1] is not None:
      entry[1].close()


def _write_texts(out, encoder, sources) -> None:
  """Adds the captions that no earlier call encoded."""
  infos = [i for s in sources for i in s.metadata(on_corrupt="skip").examples]
  texts = queries.unique_texts(queries.caption_queries(infos))
  texts_lib.add_texts(
    out / feature_reader.TEXTS_FILE, encoder, texts=list(texts)
  )


def _write_metadata(out, metadata) -> None:
  metadata_lib.write(out / feature_reader.EXTRACTION_FILE, metadata)


def _claim(out, encoder, dataset, stride_sec, *, overwrite) -> dict:
  """Writes the metadata of `out`, unless it contains other features."""
  metadata = {
    "encoder": encoder.name,
    "seed": encoder.seed,
    "encoder_directory": str(encoder.directory.absolute()),
    "parameters": encoder.fingerprint,
    "dataset": dataset.name,
    "dataset_directory": str(dataset.directory.absolute()),
    "stride_sec": stride_sec,
    "clip": dataclasses.asdict(encoder.clip),
    "training": encoder.training,
    "finished": False,
  }
  record = out / feature_reader.EXTRACTION_FILE
  if not record.is_file() and any(out.glob("*.npz")):
    raise FileExistsError(
      f"{out} contains .npz files but no {record.name}, so `clap extract` did "
      "not write them; use another directory."
    )
  if record.is_file() and not overwrite:
    old = metadata_lib.read(out, record.name)
    changed = [
      key
      for key in ("parameters", "dataset", "stride_sec", "clip")
      if key in old and _with_defaults(key, old[key]) != metadata[key]
    ]
    if changed:
      raise FileExistsError(
        f"{out} contains features that differ in {', '.join(changed)}; use "
        "another directory or pass --overwrite."
      )
    metadata["failed"] = old.get("failed", [])
    metadata["finished"] = old.get("finished", False)
  output.check_links((out / feature_reader.TEXTS_FILE).parent)
  if overwrite and out.is_dir():
    for path in [*out.glob("*.npz"), *out.glob("texts/*.npz")]:
      path.unlink()
  out.mkdir(parents=True, exist_ok=True)
  _write_metadata(out, metadata)
  return metadata


def _with_defaults(key: str, value):
  """Adds the settings that older revisions did not write."""
  if key != "clip":
    return value
  return dataclasses.asdict(clip_reader.ClipShape(**value))


def _batched(items: Iterable, size: int) -> Iterator[list]:
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch
