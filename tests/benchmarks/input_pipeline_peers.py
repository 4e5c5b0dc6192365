"""Other readers of videos and records, to be measured against.

Each video reader gives the clip that ours gives: frames nearest to equally
spaced instants, squashed to a square, uint8 (t, size, size, 3). Packages that
are not installed are left out by name.
"""

import io
import pathlib
from collections.abc import Callable

import av
import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

Reader = Callable[[bytes, float, float, int, int], np.ndarray]


def read_pyav(
  data: bytes, start_sec: float, clip_sec: float, num_frames: int, size: int
) -> np.ndarray:
  """Seeks to the key frame, decodes on, converts the chosen frames."""
  wanted = start_sec + np.arange(num_frames) * clip_sec / num_frames
  frames, position = [], 0
  with av.open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    tick = float(stream.time_base)
    container.seek(int(start_sec / tick), stream=stream, backward=True)
    last = None
    for frame in container.decode(stream):
      time = frame.pts * tick
      while position < num_frames and time >= wanted[position] - 1e-6:
        last = frame.to_ndarray(format="rgb24", width=size, height=size)
        frames.append(last)
        position += 1
      if position == num_frames:
        break
  frames += [last] * (num_frames - len(frames))
  return np.stack(frames)


def _read_decord(decord) -> Reader:
  def read(data, start_sec, clip_sec, num_frames, size):
    reader = decord.VideoReader(
      io.BytesIO(data), width=size, height=size, num_threads=1
    )
    wanted = start_sec + np.arange(num_frames) * clip_sec / num_frames
    rate = reader.get_avg_fps()
    indices = np.minimum(np.round(wanted * rate), len(reader) - 1).astype(int)
    return reader.get_batch(indices.tolist()).asnumpy()

  return read


def _read_torchcodec(decoders) -> Reader:
  def read(data, start_sec, clip_sec, num_frames, size):
    decoder = decoders.VideoDecoder(data, num_ffmpeg_threads=1)
    end = decoder.metadata.end_stream_seconds - 1e-3
    wanted = start_sec + np.arange(num_frames) * clip_sec / num_frames
    batch = decoder.get_frames_played_at(np.minimum(wanted, end).tolist())
    frames = batch.data.permute(0, 2, 3, 1).numpy()
    return np.stack(
      [
        np.asarray(Image.fromarray(frame).resize((size, size)))
        for frame in frames
      ]
    )

  return read


def video_readers() -> tuple[dict[str, Reader], dict[str, str]]:
  """Readers by name, and why others are not there."""
  readers, absent = {"PyAV": read_pyav}, {}
  try:
    import decord  # noqa: PLC0415  only to be measured against

    readers["decord"] = _read_decord(decord)
  except (ImportError, OSError) as error:
    absent["decord"] = str(error).splitlines()[0]
  try:
    from torchcodec import decoders  # noqa: PLC0415

    readers["torchcodec"] = _read_torchcodec(decoders)
  except (ImportError, OSError, RuntimeError) as error:
    absent["torchcodec"] = str(error).splitlines()[0]
  return readers, absent


def all_frames(data: bytes) -> np.ndarray:
  """Every frame of a video, uint8 (t, height, width, 3)."""
  with av.open(io.BytesIO(data)) as container:
    return np.stack(
      [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    )


def encode_jpegs(frames: list[np.ndarray], quality: int) -> list[bytes]:
  """One JPEG file per frame, 4:2:0, as frame stores keep them."""
  files = []
  for frame in frames:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    files.append(buffer.getvalue())
  return files


def decode_jpegs(files: list[bytes]) -> np.ndarray:
  """The frames again."""
  return np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files])


def write_array_record(path: pathlib.Path, records: list[bytes]) -> object:
  """An ArrayRecord file of groups of one, for random access; its reader.

  Returns None where the package is not installed.
  """
  try:
    from array_record.python import (  # noqa: PLC0415
      array_record_module as module,
    )
  except ImportError:
    return None
  writer = module.ArrayRecordWriter(str(path), "group_size:1")
  for record in records:
    writer.write(record)
  writer.close()
  return module.ArrayRecordReader(
    str(path),
    "readahead_buffer_size:0",
    file_reader_buffer_size=32 * 1024,
  )


def frame_sequence(files: list[bytes]) -> bytes:
  """A record of JPEG files as DMVR lays videos out: a SequenceExample."""
  sequence = tf_example_pb2.SequenceExample()
  frames = sequence.feature_lists.feature_list["image/encoded"]
  for file in files:
    frames.feature.add().bytes_list.value.append(file)
  return sequence.SerializeToString()


def read_sequence(
  sequence: tf_example_pb2.SequenceExample,
  start_sec: float,
  clip_sec: float,
  num_frames: int,
  size: int,
  *,
  fps: float,
) -> np.ndarray:
  """Decodes the frames of a clip from such a record."""
  frames = sequence.feature_lists.feature_list["image/encoded"].feature
  wanted = start_sec + np.arange(num_frames) * clip_sec / num_frames
  indices = np.minimum(np.round(wanted * fps), len(frames) - 1).astype(int)
  pictures = []
  for index in indices.tolist():
    picture = Image.open(io.BytesIO(frames[index].bytes_list.value[0]))
    pictures.append(np.asarray(picture.resize((size, size))))
  return np.stack(pictures)
