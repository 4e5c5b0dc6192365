"""A small built dataset, written without a builder and without TensorFlow."""

import fractions
import json
import pathlib
import tempfile
from collections.abc import Sequence

import av
import numpy as np
import tensorflow_datasets as tfds

from clap_jax.storage.framing import frame_record

LABEL_NAMES = ("slides", "spins", "fades")
FPS = 8.0
SIZE = 48


def encode_mp4(
  num_frames: int,
  *,
  fps: float = FPS,
  size: int = SIZE,
  seed: int = 0,
  codec: str = "libx264",
  container_format: str = "mp4",
  movflags: str = "",
  **options: str,
) -> bytes:
  """A moving square over noise; the grey level of a corner tells the frame.

  Options are those of the encoder, over the usual ones.
  """
  rng = np.random.default_rng(seed)
  background = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
  with tempfile.NamedTemporaryFile() as file:  # faststart opens it again
    flags = {"movflags": movflags} if movflags else {}
    container = av.open(file.name, "w", format=container_format, options=flags)
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = container.add_stream(codec, rate=rate)
    stream.width = stream.height = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.options = {"crf": "18", "g": "16", "bf": "0", "threads": "1"}
    # With mbtree, equal frames do not always give equal bytes.
    stream.options |= {"x264-params": "mbtree=0:rc-lookahead=0"} | options
    for number in range(num_frames):
      pixels = background.copy()
      left = (number * 3 + seed) % (size - 12)
      pixels[16:28, left : left + 12] = (250, 40, 40 + 10 * (number % 16))
      pixels[:12, :12] = number * 23 % 256
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
    container.close()
    return pathlib.Path(file.name).read_bytes()


def features() -> tfds.features.FeaturesDict:
  feature = tfds.features
  span = {"start_sec": np.float32, "end_sec": np.float32}
  label = feature.ClassLabel(names=list(LABEL_NAMES))
  return feature.FeaturesDict(
    {
      "id": feature.Text(),
      "video": feature.Tensor(shape=(), dtype=np.object_),
      "fps": np.float32,
      "duration_sec": np.float32,
      "num_frames": np.int32,
      "height": np.int32,
      "width": np.int32,
      "segments": feature.Sequence({**span, "label": label}),
      "captions": feature.Sequence({**span, "text": feature.Text()}),
      "background": feature.Sequence(dict(span)),
    }
  )


def make_example(number: int) -> dict:
  """Video `number`: 12 s, two or three actions, background between them."""
  num_frames = 96
  labels = [(number + k) % 3 for k in range(2 + number % 2)]
  segments = [(1.0 + 4 * k, 3.5 + 4 * k) for k in range(len(labels))]
  free = [(0.0, 1.0), (3.5, 5.0), (7.5, 9.0 if len(labels) == 3 else 12.0)]
  captions = [
    (start, end, f"the square {LABEL_NAMES[label]} in video {number % 4}.")
    for (start, end), label in zip(segments, labels, strict=True)
  ]
  captions.append((*free[2], "Nothing  moves"))
  return {
    "id": f"video_{number:03d}",
    "video": encode_mp4(num_frames, seed=number),
    "fps": FPS,
    "duration_sec": num_frames / FPS,
    "num_frames": num_frames,
    "height": SIZE,
    "width": SIZE,
    "segments": [
      {"start_sec": start, "end_sec": end, "label": label}
      for (start, end), label in zip(segments, labels, strict=True)
    ],
    "captions": [
      {"start_sec": start, "end_sec": end, "text": text}
      for start, end, text in captions
    ],
    "background": [{"start_sec": start, "end_sec": end} for start, end in free],
  }


def write_shard(path: pathlib.Path, records: list[bytes]) -> None:
  framed = [frame_record(record) for record in records]
  path.write_bytes(b"".join(framed))
  offsets = np.cumsum([0, *(len(record) for record in framed[:-1])])
  index = path.with_name(path.name + ".idx")
  index.write_bytes(offsets.astype("<u8").tobytes() if records else b"")


def write_dataset(
  data_dir: pathlib.Path,
  *,
  num_videos: int = 6,
  num_shards: int = 2,
  version: str = "1.0.0",
  without: tuple[str, ...] = (),
  examples: Sequence[dict] | None = None,
) -> pathlib.Path:
  """Writes DATA_DIR/toy/small/<version>/ with one split, train.

  `without` names annotations to leave out: segments, captions or background.
  `examples` replaces those of `make_example`.
  """
  if examples is None:
    examples = [make_example(number) for number in range(num_videos)]
  num_videos = len(examples)
  directory = data_dir / "toy" / "small" / version
  (directory / "train").mkdir(parents=True)
  spec = features()
  spec.save_config(str(directory))
  records = [
    spec.serialize_example(
      spec.encode_example(example | {key: [] for key in without})
    )
    for example in examples
  ]
  lengths = []
  for shard, part in enumerate(
    np.array_split(np.arange(num_videos), num_shards)
  ):
    name = f"toy-train.tfrecord-{shard:05d}-of-{num_shards:05d}"
    write_shard(directory / name, [records[number] for number in part])
    lengths.append(str(len(part)))
  info = {
    "name": "toy",
    "version": version,
    "fileFormat": "tfrecord",
    "splits": [{"name": "train", "shardLengths": lengths}],
  }
  (directory / "dataset_info.json").write_text(json.dumps(info))
  manifest = {"present": num_videos, "missing": [], "corrupt": []}
  (directory / "train" / "manifest.json").write_text(json.dumps(manifest))
  return directory
