"""Computes statistics of a split."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from clap_jax.data.records import Dataset, ExampleInfo

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def split_statistics(dataset: Dataset, split: str) -> dict:
  """Computes statistics of a split as JSON types; lengths in seconds.

  `action_share` is the share of the footage covered by segments. Quantiles are
  the minimum, the quartiles and the maximum; None if there are no values.
  """
  table = dataset.split(split).metadata(on_corrupt="skip")
  infos = table.examples
  manifest = dataset.manifest(split)
  durations = np.array([info.duration_sec for info in infos], np.float64)
  lengths = _lengths([info.segments for info in infos])
  captions = [c for info in infos for c in info.captions]
  action_sec = sum(_covered_sec(info.segments) for info in infos)
  labels = Counter(
    dataset.label_names[label] for info in infos for label in info.labels
  )
  absent = [name for name in dataset.label_names if name not in labels]
  return {
    "videos": len(infos),
    "unreadable_records": [str(error) for error in table.corrupt],
    "missing": len(manifest["missing"]),
    "corrupt": len(manifest["corrupt"]),
    "excluded": len(manifest.get("excluded", ())),
    "repaired_spans": len(manifest.get("repaired", ())),
    "rejected_spans": len(manifest.get("rejected", ())),
    "duration_mismatches": len(manifest.get("duration_mismatch", ())),
    "frames_mismatches": len(manifest.get("frames_mismatch", ())),
    "hours": float(durations.sum()) / 3600,
    "duration_sec": _quantiles(durations),
    "fps": _counts(round(info.fps, 3) for info in infos),
    "size_px": _counts(f"{info.width}x{info.height}" for info in infos),
    "segments": len(lengths),
    "segments_per_video": _quantiles([len(info.labels) for info in infos]),
    "segment_sec": _quantiles(lengths),
    "action_share": action_sec / durations.sum() if len(infos) else None,
    "background_spans": sum(len(info.background) for info in infos),
    "classes": len(labels),
    "classes_without_segment": absent,
    "segments_per_class": dict(labels.most_common()),
    "captions": len(captions),
    "caption_sec": _quantiles([end - start for start, end, _ in captions]),
    "caption_words": _quantiles([len(text.split()) for _, _, text in captions]),
    "different_captions": len({text for _, _, text in captions}),
  }


def _lengths(groups: Sequence[np.ndarray]) -> np.ndarray:
  spans = np.concatenate([np.zeros((0, 2)), *groups])
  return spans[:, 1] - spans[:, 0]


def _covered_sec(spans: np.ndarray) -> float:
  """Returns the length of the union of spans."""
  covered, reached = 0.0, 0.0
  for start, end in sorted(spans.tolist()):
    covered += max(0.0, end - max(start, reached))
    reached = max(reached, end)
  return covered


def _quantiles(values: Sequence[float] | np.ndarray) -> list[float] | None:
  if not len(values):
    return None
  return [float(q) for q in np.quantile(values, _QUANTILES)]


def _counts(values) -> dict[str, int]:
  return {str(key): count for key, count in Counter(values).most_common()}


def evenly_chosen(
  infos: Sequence[ExampleInfo], *, at_most: int
) -> list[ExampleInfo]:
  """Returns examples evenly spaced in the split, deterministically."""
  kept = min(at_most, len(infos))
  return [infos[int((k + 0.5) * len(infos) / kept)] for k in range(kept)]
