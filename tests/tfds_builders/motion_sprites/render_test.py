"""Rendered files: reproducible, random access, resumable."""

import json

import av
import numpy as np
import pytest

from tfds_builders import encoding
from tfds_builders.motion_sprites import render, scene, sizes

TINY = sizes.get_config("tiny")


def _decode(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    facts = (
      stream.codec_context.name,
      stream.codec_context.pix_fmt,
      float(stream.average_rate),
    )
    return facts, list(container.decode(stream))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
  out = tmp_path_factory.mktemp("rendered") / "tiny"
  steps = []
  document = render.render(
    TINY, out, num_workers=1, on_progress=lambda *s: steps.append(s)
  )
  assert steps[-1] == (15, 15) and len(steps) == 15
  return out, document


def test_same_video_same_bytes_other_index_other_bytes(tmp_path, rendered):
  out, document = rendered
  again = render.render_video(
    TINY.seed, "train", index=2, config=TINY, path=tmp_path / "a.mp4"
  )
  assert again == document["database"]["train_000002"]
  video = (tmp_path / "a.mp4").read_bytes()
  assert video == (out / "train" / "train_000002.mp4").read_bytes()
  assert video != (out / "train" / "train_000003.mp4").read_bytes()


def test_the_file_is_what_the_store_promises(rendered):
  out, document = rendered
  entry = document["database"]["train_000000"]
  path = out / "train" / "train_000000.mp4"
  facts, frames = _decode(path)
  assert facts == ("h264", "yuv420p", float(entry["fps"]))
  assert len(frames) == entry["num_frames"] == encoding.count_frames(path)
  keys = [i for i, f in enumerate(frames) if f.key_frame]
  assert keys == list(range(0, len(frames), encoding.GOP_FRAMES))
  assert "B" not in {
    av.video.frame.PictureType(f.pict_type).name for f in frames
  }
  times = [f.time for f in frames]
  np.testing.assert_allclose(times, np.arange(len(frames)) / entry["fps"])
  head = path.read_bytes()
  assert head.index(b"moov") < head.index(b"mdat")  # faststart


def test_decoded_frames_are_the_drawn_ones(rendered):
  out, _ = rendered
  _, frames = _decode(out / "train" / "train_000000.mp4")
  drawn = scene.draw(scene.make_scene(0, "train", index=0, config=TINY))
  decoded = np.stack([f.to_ndarray(format="rgb24") for f in frames])
  error = np.abs(decoded.astype(int) - drawn).mean()
  assert error < 6  # half the colour resolution, light compression


def test_any_group_decodes_alone(rendered):
  """Seeking to a key frame and decoding 16 frames equals decoding all."""
  out, _ = rendered
  path = out / "train" / "train_000001.mp4"
  _, frames = _decode(path)
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    container.seek(frames[32].pts, stream=stream, backward=True)
    for expected, frame in zip(
      frames[32:48], container.decode(stream), strict=False
    ):
      assert frame.pts == expected.pts
      np.testing.assert_array_equal(
        frame.to_ndarray(format="rgb24"), expected.to_ndarray(format="rgb24")
      )


def test_a_second_run_keeps_complete_files_and_heals_broken_ones(rendered):
  out, document = rendered
  kept, broken = (out / "train" / f"train_00000{i}.mp4" for i in (4, 5))
  time_ns, content = kept.stat().st_mtime_ns, broken.read_bytes()
  broken.write_bytes(content[: len(content) // 2])
  assert render.render(TINY, out, num_workers=1) == document
  assert kept.stat().st_mtime_ns == time_ns
  assert broken.read_bytes() == content
  assert not list(out.rglob("*.tmp"))
  saved = json.loads((out / render.ANNOTATIONS_NAME).read_text())
  assert saved == document


def test_a_folder_of_something_else_is_refused(tmp_path, rendered):
  out, _ = rendered
  with pytest.raises(ValueError, match="another rendering"):
    render.render(sizes.get_config("demo"), out)
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(ValueError, match="not empty"):
    render.render(TINY, tmp_path)


def test_unseen_splits_can_be_made(tmp_path):
  path = tmp_path / "new" / "v.mp4"
  unseen = render.render_video(7, "unseen", index=0, config=TINY, path=path)
  assert unseen["subset"] == "unseen"
  assert encoding.count_frames(path) == unseen["num_frames"]


@pytest.mark.parametrize(
  "frames,message",
  [
    ([], "no frames"),
    ([np.zeros((16, 15, 3), np.uint8)], "even sides"),
    ([np.zeros((16, 16, 3), np.float32)], "uint8 RGB"),
  ],
)
def test_unusable_frames_leave_no_file(tmp_path, frames, message):
  with pytest.raises(ValueError, match=message):
    encoding.write_mp4(frames, tmp_path / "a.mp4", fps=8)
  assert not list(tmp_path.iterdir())
