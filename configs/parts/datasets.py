"""Returns the sections `data` of the heads."""

from ml_collections import config_dict


def motion_sprites(size: str) -> dict:
  """Returns the data section of both heads on motion_sprites."""
  return {
    "dataset": f"motion_sprites/{size}",
    "data_dir": "data",
    "features_dir": "features",  # written by `clap extract`
    "train_split": "train",
    "selection_split": "selection",
    "eval_split": "validation",
    "batch_size": 16,
    "max_length": 64,  # snippets
    "crop_probability": 0.3,  # probability of a random temporal crop
    "num_threads": 1,
  }


def activitynet(*, extracted: bool = False) -> dict:
  """Returns the data section of ActivityNet-1.3 on features.

  Args:
    extracted: True: features of `clap extract`; False: TSP's public ones.
  """
  data = {
    "annotations": "annotations/activity_net.v1-3.min.json",
    "features_dir": "features/activitynet_tsp",
    "files": {
      "names": ("v_{id}.npy",),
      "timing": "frames",
      "fps": 15.0,  # the videos were resampled
      "stride_frames": 16.0,
      "window_frames": 16.0,
      "encoder": "tsp",
    },
    "train_split": "training",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "validation",
    "batch_size": 16,
    "max_length": 192,  # steps that every video is resized to
    "length": "resize",
    "crop_probability": 0.0,
    "num_threads": 2,
    "on_missing": "skip",  # videos that are gone; the card counts them
  }
  if extracted:
    del data["files"]
  return data


def thumos() -> dict:
  """Returns the data section of THUMOS14 on public two-stream I3D features."""
  return {
    "annotations": "annotations/thumos14.json",
    "features_dir": "features/thumos14_i3d",
    "files": {
      "names": ("{id}.npy",),
      "timing": "frames",
      "stride_frames": 4.0,
      "window_frames": 16.0,
      "encoder": "i3d",
    },
    "train_split": "validation",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "test",
    "batch_size": 2,
    "max_length": 2304,  # steps of a training sequence
    "crop_probability": 1.0,
    "num_threads": 2,
    "ignored_labels": ("Ambiguous",),
    # Videos with wrong labels or without an action.
    "ignored_videos": ("video_test_0000270", "video_test_0001292"),
  }


def hapt(*, select: bool) -> dict:
  """Returns the data section of UCI HAPT.

  tests/tutorials/sensor_features.py writes its files.

  Args:
    select: holds training subjects out for selection.
  """
  return {
    "annotations": "features/hapt/annotations.json",
    "features_dir": "features/hapt",
    "files": {"encoder": "windows"},
    "train_split": "training",
    "selection_split": "holdout" if select else config_dict.placeholder(str),
    "eval_split": "validation",
    "holdout": "user(05|11|17|23|29)$"
    if select
    else config_dict.placeholder(str),
    "standardize": True,
    "batch_size": 8,
    "max_length": 256,  # steps of a training crop
    "crop_probability": 1.0,
    "num_threads": 1,
  }


def own(**others) -> dict:
  """Returns the data section of your own features and annotations.

  Flags may set every key; these are the ones to check.
  """
  return {
    "annotations": "annotations.json",  # or a table, see docs/own_features.md
    "features_dir": "features",
    "files": {
      "names": ("{id}.npz",),  # or .npy, .csv; one .h5 with key "{id}"
      "timing": "stored",  # frames (fps, stride_frames, ...) | even | stored
    },
    "train_split": "training",
    "selection_split": config_dict.placeholder(str),  # looked at in training
    "eval_split": "validation",
    "batch_size": 8,
    "max_length": 256,  # steps of a training crop
    "crop_probability": 1.0,
    "num_threads": 1,
  } | others


def queries_on_files(**others) -> dict:
  """Returns the data section of a grounder on annotation and feature files."""
  return {
    "train_split": "train",
    "selection_split": "selection",
    "batch_size": 16,  # videos
    "queries_per_video": 8,
    "absent_per_video": 2,  # queries of other videos
    "crop_probability": 0.0,
    "num_threads": 2,
    "on_missing": "skip",  # videos that are gone; the card counts them
  } | others
