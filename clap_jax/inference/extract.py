"""Dense clip features of whole videos, one .npz per video.

Feature i is the tower's output for the clip that starts at i * stride_sec.
Decoding runs ahead of encoding in threads; a video that cannot be decoded is
skipped, counted and listed.
"""

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from clap_jax.data import class_texts, features, queries, records, tfrecord
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import texts as texts_lib
from clap_jax.media import decode, errors
from clap_jax.models import long_video
from clap_jax.trainers import encoders, feature_data
from clap_jax.trainers import facts as facts_lib

Progress = Callable[[int, int], None]  # videos done, videos in all


@dataclasses.dataclass(frozen=True)
class Extraction:
  """What `extract` did: ids of done, kept and failed videos."""

  directory: pathlib.Path
  written: tuple[str, ...]
  kept: tuple[str, ...]  # finished by an earlier call
  failed: tuple[dict, ...]  # {"id", "reason"}


def video_features(
  encoder: encoder_lib.Encoder, clips: Iterable[decode.DecodedClip]
) -> np.ndarray:
  """Clips of one video, streamed, to features (t, d)."""
  rows = []
  size = long_video.clips_per_device()
  for batch in _batched(clips, size):
    frames = np.stack([clip.frames for clip in batch])
    rows.append(encoder.clip_features(frames, size))
  return np.concatenate(rows)


def stream_clips(
  encoder: encoder_lib.Encoder, video, *, stride_sec: float
) -> Iterator[decode.DecodedClip]:
  """The encoder's clips of a video, bytes or a local path."""
  shape = encoder.clip
  return decode.iter_clips(
    video,
    clip_sec=shape.clip_sec,
    stride_sec=stride_sec,
    num_frames=shape.num_frames,
    size=shape.image_size,
    mode=shape.resize,
  )


def extract(
  encoder: encoder_lib.Encoder,
  dataset: records.Dataset,
  *,
  out: str | pathlib.Path,
  stride_sec: float,
  splits: tuple[str, ...] | None = None,
  overwrite: bool = False,
  num_threads: int = 2,
  on_progress: Progress | None = None,
) -> Extraction:
  """Writes features of every video and vectors of captions and class names.

  `<out>/<id>.npz` holds the features of a video, `<out>/texts/vectors.npz` the
  texts of all captions with their token vectors (n, l, d) and mask (n, l), and
  `<out>/texts/classes.npz` the class names in the shared space.
  Killed and called again, it goes on with what is missing.

  Raises:
    FileExistsError: if `out` holds features of another encoder or stride.
  """
  out = pathlib.Path(out)
  if not stride_sec > 0:
    raise ValueError(f"stride_sec must be above 0, got {stride_sec}.")
  sources = [dataset.split(s) for s in splits or dataset.splits]
  facts = _claim(out, encoder, dataset, stride_sec, overwrite=overwrite)
  todo = [(source, i) for source in sources for i in range(len(source))]
  written, kept, failed = [], [], []

  def read(item):
    source, index = item
    try:
      example = source[index]
    except tfrecord.CorruptRecordError as error:
      infos = source.metadata(on_corrupt="skip").examples
      ids = {info.index: info.id for info in infos}
      return None, ids.get(index, f"{source.name} record {index}"), str(error)
    if features.features_path(out, example.id).is_file():
      return example, None, None
    try:
      clips = stream_clips(encoder, example.video, stride_sec=stride_sec)
      return example, list(clips), None
    except errors.VideoError as error:
      return None, example.id, str(error)

  for done, (example, clips, reason) in enumerate(
    _ahead(read, todo, num_threads)
  ):
    if example is None:
      failed.append({"id": clips, "reason": reason})
    elif clips is None:
      kept.append(example.id)
    else:
      if facts["finished"]:  # another split was
        facts["finished"] = False
        _write_facts(out, facts)
      grid = features.FeatureGrid(
        start_sec=0.0, stride_sec=stride_sec, clip_sec=encoder.clip.clip_sec
      )
      video = features.VideoFeatures(video_features(encoder, clips), grid)
      features.save_features(out, example.id, video)
      written.append(example.id)
    if on_progress:
      on_progress(done + 1, len(todo))
  _write_texts(out, encoder, sources)
  classes = out / feature_data.CLASSES_FILE
  if not classes.is_file():
    class_texts.save(classes, encoder.class_texts(dataset.label_names))
  # Other splits' failures, of earlier calls, stay on the record.
  done_ids = {*written, *kept, *(entry["id"] for entry in failed)}
  others = [e for e in facts.get("failed", ()) if e["id"] not in done_ids]
  _write_facts(out, facts | {"failed": [*others, *failed], "finished": True})
  return Extraction(out, tuple(written), tuple(kept), tuple(failed))


def _write_texts(out, encoder, sources) -> None:
  """Adds what is missing: another split may have been extracted before."""
  infos = [i for s in sources for i in s.metadata(on_corrupt="skip").examples]
  texts = queries.unique_texts(queries.caption_queries(infos))
  texts_lib.add_texts(out / feature_data.TEXTS_FILE, encoder, texts=list(texts))


def _write_facts(out, facts) -> None:
  facts_lib.write(out / feature_data.EXTRACTION_FILE, facts)


def _claim(out, encoder, dataset, stride_sec, *, overwrite) -> dict:
  """Notes whose features `out` holds, and refuses to mix them."""
  facts = {
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
  record = out / feature_data.EXTRACTION_FILE
  if not record.is_file() and any(out.glob("*.npz")):
    raise FileExistsError(
      f"{out} holds .npz files but no {record.name}: `clap extract` has not "
      "written them. Use another directory."
    )
  if record.is_file() and not overwrite:
    old = facts_lib.read(out, record.name)
    changed = [
      key
      for key in ("parameters", "dataset", "stride_sec", "clip")
      if key in old and _with_defaults(key, old[key]) != facts[key]
    ]
    if changed:
      raise FileExistsError(
        f"{out} holds features that differ in {', '.join(changed)}; use "
        "another directory or pass --overwrite."
      )
    facts["failed"] = old.get("failed", [])
    facts["finished"] = old.get("finished", False)
  if overwrite and out.is_dir():
    for path in [*out.glob("*.npz"), *out.glob("texts/*.npz")]:
      path.unlink()
  out.mkdir(parents=True, exist_ok=True)
  _write_facts(out, facts)
  return facts


def _with_defaults(key: str, value):
  """A fact as today's code writes it; older ones know fewer settings."""
  if key != "clip":
    return value
  return dataclasses.asdict(encoders.ClipShape(**value))


def _batched(items: Iterable, size: int) -> Iterator[list]:
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch


def _ahead(function: Callable, items: list, num_threads: int) -> Iterator:
  """Results in order, at most `num_threads` + 1 of them waiting in memory."""
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    waiting: collections.deque = collections.deque()
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > num_threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
