"""Small annotation files in the exact forms that six datasets publish."""

import csv
import json
import pathlib


def _write(folder: pathlib.Path, name: str, document) -> None:
  (folder / name).write_text(json.dumps(document))


def fineaction(folder: pathlib.Path) -> None:
  """annotations_gt.json."""
  database = {
    "v_00000001": {
      "filename": "v_00000001.mp4",
      "duration": 8.0,
      "fps": 25.0,
      "subset": "training",
      "annotations": [
        {"label": "put_on_shoes", "label_id": 3, "segment": [0.5, 2.04]},
        {"label": "jump", "label_id": 5, "segment": [3.0, 7.5]},
        {"label": "jump", "label_id": 5, "segment": [4.0, 4.0]},
      ],
    },
    "v_00000002": {
      "filename": "v_00000002.mp4",
      "duration": 8.0,
      "fps": 25.0,
      "subset": "validation",
      "annotations": [{"label": "jump", "label_id": 5, "segment": [1.0, 2.5]}],
    },
    "v_00000003": {"duration": 7.0, "subset": "testing", "annotations": []},
  }
  _write(folder, "annotations_gt.json", {"database": database})


def _ego4d(split: str, clips: list[dict]) -> dict:
  return {
    "version": "1",
    "date": "220216",
    "description": "",
    "manifest": "s3://ego4d-consortium-sharing/manifest.csv",
    "videos": [{"video_uid": "u-1", "split": split, "clips": clips}],
  }


def _clip(name: str, annotations: list[dict] | None) -> dict:
  clip = {
    "clip_uid": name,
    "video_start_sec": 100.0210286,
    "video_end_sec": 108.0210286,
    "video_start_frame": 3001,
    "video_end_frame": 3241,
    "clip_start_sec": 0,
    "clip_end_sec": 8.0,
    "clip_start_frame": 0,
    "clip_end_frame": 240,
    "source_clip_uid": name,
  }
  return clip | ({} if annotations is None else {"annotations": annotations})


def _moment(label: str, start: float, end: float, *, primary=True) -> dict:
  return {
    "start_time": start,
    "end_time": end,
    "start_frame": round(30 * start),
    "end_frame": round(30 * end),
    "video_start_time": 100.0210286 + start,
    "video_end_time": 100.0210286 + end,
    "video_start_frame": 3001 + round(30 * start),
    "video_end_frame": 3001 + round(30 * end),
    "label": label,
    "primary": primary,
  }


def ego4d_mq(folder: pathlib.Path) -> None:
  """moments_{train,val,test_unannotated}.json."""
  first = [
    _moment("wash_dishes", 0.5, 4.25),
    _moment("use_phone", 2.0, 3.0, primary=False),
  ]
  second = [_moment("wash_dishes", 0.75, 4.0)]
  both = [
    {"annotator_uid": "a", "labels": first},
    {"annotator_uid": "b", "labels": second},
  ]
  _write(folder, "moments_train.json", _ego4d("train", [_clip("c-1", both)]))
  found = [{"annotator_uid": "a", "labels": [_moment("use_phone", 1.0, 2.0)]}]
  _write(folder, "moments_val.json", _ego4d("val", [_clip("c-2", found)]))
  _write(
    folder,
    "moments_test_unannotated.json",
    _ego4d("test", [_clip("c-3", None)]),
  )


def _question(text: str | None, start: float, end: float) -> dict:
  return {
    "clip_start_sec": start,
    "clip_end_sec": end,
    "video_start_sec": 100.0210286 + start,
    "video_end_sec": 100.0210286 + end,
    "video_start_frame": 3001 + round(30 * start),
    "video_end_frame": 3001 + round(30 * end),
    "template": "Objects: Where is object X before / after event Y?",
    "query": text,
    "slot_x": "cup",
    "verb_x": "[verb_not_applicable]",
    "slot_y": "washing",
    "verb_y": "[verb_not_applicable]",
    "raw_tags": [],
  }


def ego4d_nlq(folder: pathlib.Path) -> None:
  """nlq_{train,val,test_unannotated}.json."""

  def clip(name, *questions):
    queries = [
      {"annotation_uid": f"{name}-a", "language_queries": list(questions)}
    ]
    return _clip(name, queries)

  train = clip(
    "c-1",
    _question("Where was the cup before I washed it?", 1.0, 3.5),
    _question(None, 1.0, 2.0),
    _question("What did I put in the drawer?", 4.0, 4.0),
  )
  _write(folder, "nlq_train.json", _ego4d("train", [train]))
  val = clip("c-2", _question("Where is the knife?", 2.0, 5.0))
  _write(folder, "nlq_val.json", _ego4d("val", [val]))
  hidden = {"query": "Who did I talk to?", "template": "People: ..."}
  _write(
    folder, "nlq_test_unannotated.json", _ego4d("test", [clip("c-3", hidden)])
  )


_SOUND_COLUMNS = (
  "annotation_id", "participant_id", "video_id", "start_timestamp",
  "stop_timestamp", "start_sample", "stop_sample", "description", "class",
  "class_id",
)  # fmt: skip


def epic_sounds(folder: pathlib.Path) -> None:
  """EPIC_Sounds_{train,validation}.csv and EPIC_100_video_info.csv."""
  rows = {
    "train": [
      ("P01_01", "00:00:02.466", "00:00:05.315", "paper rustle", "rustle", 4),
      ("P01_01", "00:00:00.500", "00:00:01.250", "tap", "water", 1),
      ("P01_01", "00:00:01.500", "00:00:02.250", "tap", "water", 4),
    ],
    "validation": [
      ("P02_03", "00:00:01.000", "00:00:03.000", "tap on", "water", 1)
    ],
  }
  for split, own in rows.items():
    path = folder / f"EPIC_Sounds_{split}.csv"
    with path.open("w", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(_SOUND_COLUMNS)
      for number, (video, start, stop, text, label, label_id) in enumerate(own):
        times = (start, stop, 0, 0)
        writer.writerow(
          (f"{video}_{number}", video[:3], video, *times, text, label, label_id)
        )
  (folder / "EPIC_100_video_info.csv").write_text(
    "video_id,duration,fps,resolution\nP01_01,8.0,50.0,1920x1080\n"
    "P02_03,8.0,50.0,1920x1080\n"
  )


def didemo(folder: pathlib.Path) -> None:
  """{train,val,test}_data.json."""
  names = {"train": "1@N02_135.mov", "val": "2@N02_136.mpg", "test": "3.3gp"}
  times = {
    "train": [[1, 1], [0, 0], [0, 0], [0, 1]],
    "val": [[1, 1], [0, 0], [2, 2]],
    "test": [[0, 0], [0, 0], [0, 0], [0, 0]],
  }
  for number, (split, name) in enumerate(names.items()):
    row = {
      "num_segments": 6,
      "description": f"a dog runs to the left {number}",
      "dl_link": "https://www.flickr.com/video_download.gne?id=1",
      "times": times[split],
      "video": name,
      "annotation_id": number,
    }
    _write(folder, f"{split}_data.json", [row])


def youcook2(folder: pathlib.Path) -> None:
  """youcookii_annotations_trainval.json."""

  def video(subset, *steps):
    return {
      "duration": 8.0,
      "subset": subset,
      "recipe_type": "113",
      "video_url": "https://www.youtube.com/watch?v=xHr8X2Wpmno",
      "annotations": [
        {"segment": segment, "id": index, "sentence": sentence}
        for index, (segment, sentence) in enumerate(steps)
      ],
    }

  database = {
    "xHr8X2Wpmno": video(
      "training",
      ([1, 3], "pick the ends off the verdalago"),
      ([4, 6], "combine lemon juice sumac garlic salt and oil in a bowl"),
      ([6, 6], "chop lettuce"),
    ),
    "V53XmPeyjIU": video("validation", ([2, 7], "add oil to the pan")),
  }
  _write(folder, "youcookii_annotations_trainval.json", {"database": database})
