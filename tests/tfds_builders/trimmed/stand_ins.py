"""Small sets in the layouts in which the real ones are published."""

import pathlib
from fractions import Fraction

import av
import numpy as np

UCF101_CLASSES = ("ApplyEyeMakeup", "HandstandPushups")
HMDB51_CLASSES = ("brush_hair", "ride_bike")
KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


def make_clip(path, *, level=100, frames=12, fps=10, size=(64, 48)):
  """A clip of one grey level, so that a joined one is known by its pixels."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as out:
    stream = out.add_stream("mpeg4", rate=Fraction(fps))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    image = np.full((size[1], size[0], 3), level, np.uint8)
    for _ in range(frames):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return path


def break_clip(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def ucf101(folder, *, groups=range(6, 10)):
  """`UCF-101/CLASS/v_CLASS_gNN_cNN.avi` and `ucfTrainTestlist/`.

  As in the real set, groups 1 to 7 are the test of the first lists, the files
  of HandstandPushups spell the class in another way, and the lines end as on
  Windows.
  """
  lists = {"trainlist01.txt": [], "testlist01.txt": []}
  for number, label in enumerate(UCF101_CLASSES, 1):
    spelled = label.replace("Handstand", "HandStand")
    for group in groups:
      name = f"{label}/v_{spelled}_g{group:02d}_c01.avi"
      make_clip(folder / "UCF-101" / name, level=20 * group)
      if group < 8:
        lists["testlist01.txt"].append(name)
      else:
        lists["trainlist01.txt"].append(f"{name} {number}")
  lists["classInd.txt"] = ["1 ApplyEyeMakeup", "2 HandstandPushups"]
  (folder / "ucfTrainTestlist").mkdir()
  for name, lines in lists.items():
    text = "".join(f"{line}\r\n" for line in lines)
    (folder / "ucfTrainTestlist" / name).write_text(text, newline="")


def hmdb51_names(label):
  """File name -> 0, 1 or 2 of the split list."""
  tail = f"{label}_f_cm_np1_ba_med_0.avi"
  return {
    f"April_09_{tail}": 1,
    f"(Rad)Schlag_die_Bank!_{tail}": 1,
    f"Rad_Schlag_die_Bank!_{tail}": 2,
    f"#437_How_To_{tail}": 0,
  }


def hmdb51(folder):
  """`CLASS/*.avi` and `testTrainMulti_7030_splits/CLASS_test_split1.txt`."""
  lists = folder / "testTrainMulti_7030_splits"
  lists.mkdir()
  for label in HMDB51_CLASSES:
    names = hmdb51_names(label)
    for name in names:
      make_clip(folder / "hmdb51" / label / name, frames=5)
    text = "".join(f"{name} {kind} \n" for name, kind in names.items())
    (lists / f"{label}_test_split1.txt").write_text(text)


def kinetics(folder):
  """`SPLIT/CLASS/ID_SSSSSS_EEEEEE.mp4` and the official CSV files.

  Two ids differ by case alone, one starts with a hyphen, one clip is gone.
  """
  rows = {
    "train": [("riding a bike", "-3B32lodo2M", 59), ("yoga", "abCdEfGhIjK", 7)],
    "validate": [("yoga", "ABcdEfGhIjK", 7), ("yoga", "gone_gone_1", 0)],
  }
  for split, clips in rows.items():
    text = KINETICS_HEADER
    for label, video, start in clips:
      cell = f'"{label}"' if " " in label else label
      text += f"{cell},{video},{start},{start + 10},{split}\n"
      if not video.startswith("gone"):
        name = f"{video}_{start:06d}_{start + 10:06d}.mp4"
        make_clip(folder / "videos" / split / label.replace(" ", "_") / name)
    path = folder / "annotations" / f"{split}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  return folder
