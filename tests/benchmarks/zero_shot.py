"""What training a grounder adds to its encoder: the same queries, both ways.

  python -m tests.benchmarks.zero_shot --grounder WORKDIR --json OUT [--split S]

WORKDIR is of a finished `clap train` of grounding on features of `clap
extract`, such as `grounding` in a demo's workdir. Every query of the split is
answered by the grounder and by the similarities of its encoder alone: recall
at IoU 0.5 of the best and of the five best moments, and the area under the ROC
curve of absence, with queries of other videos that a video surely lacks. The
encoder alone is also held against random moments, which any answer must beat.
--quick takes at most 50 videos.
"""

import numpy as np

from clap_jax.data import queries, query_reader
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import zero_shot
from clap_jax.metrics import grounding
from clap_jax.trainers import grounding as grounding_trainer
from clap_jax.trainers import registry
from tests.benchmarks import running

METRICS = ("r1@0.5", "r5@0.5", "absent_auroc")
QUICK_VIDEOS = 50
PROTOCOL = grounding.GroundingProtocol("zero_shot", (0.5,))


def answers_of(encoder, video, texts, *, duration_sec):
  """Windows (k, 3) in seconds, best first, and absence logits of texts."""
  snippets = encoder.project(video.features)
  found = zero_shot.find(snippets, zero_shot.query_texts(encoder, texts))
  windows = []
  for moments in found.moments:
    segments = video.grid.to_seconds(moments.segments).clip(0.0, duration_sec)
    windows.append(np.column_stack([segments, moments.scores]))
  return windows, found.absence_logits


def random_windows(rng, *, duration_sec: float, count: int = 5) -> np.ndarray:
  ends = np.sort(rng.uniform(0.0, duration_sec, (count, 2)), axis=1)
  return np.column_stack([ends, np.linspace(1.0, 0.5, count)])


def encoder_metrics(encoder, split, features) -> dict[str, dict[str, float]]:
  """Metrics of the encoder alone and of random moments."""
  own: dict[str, list[queries.GroundingQuery]] = {}
  for query in split.queries:
    own.setdefault(query.video_id, []).append(query)
  swapped = queries.swapped_queries(split, seed=0)
  found, drawn, logits, is_absent = {}, {}, [], []
  rng = np.random.default_rng(0)
  for video_id, asked in own.items():
    if video_id not in features:
      continue
    duration_sec = split.duration_sec[video_id]
    strangers = [split.queries[index].text for index in swapped[video_id]]
    windows, absence = answers_of(
      encoder,
      features[video_id],
      [query.text for query in asked] + strangers,
      duration_sec=duration_sec,
    )
    for query, own_windows in zip(asked, windows, strict=False):
      found[query.id] = own_windows
      drawn[query.id] = random_windows(rng, duration_sec=duration_sec)
    logits += absence.tolist()
    is_absent += [False] * len(asked) + [True] * len(strangers)
  truth = {query.id: query.windows for query in split.queries}
  absence = grounding.absence(
    np.array(logits), is_absent=np.array(is_absent), threshold=0.0
  )
  return {
    "encoder alone": grounding.evaluate(found, truth, PROTOCOL) | absence,
    "random moments": grounding.evaluate(drawn, truth, PROTOCOL)
    | {"absent_auroc": 0.5},
  }


def first_videos(split, count: int) -> queries.GroundingSplit:
  """The queries of the first videos alone."""
  names = set(sorted({query.video_id for query in split.queries})[:count])
  return queries.GroundingSplit(
    tuple(query for query in split.queries if query.video_id in names),
    split.duration_sec,
    split.video_labels,
  )


def measure(*, quick: bool, grounder: str, split: str | None) -> list[dict]:
  config = registry.resolve(registry.config_of(grounder))
  split = split or config.data.eval_split
  reader = query_reader.open_reader(config.data)
  asked = reader.grounding_split(split)
  if quick:
    asked = first_videos(asked, QUICK_VIDEOS)
  encoder = encoder_lib.load_encoder(reader.extraction["encoder_directory"])
  found = encoder_metrics(encoder, asked, reader.features(split))
  if not quick:  # the grounder is evaluated on whole splits
    rows = grounding_trainer.evaluate(config, grounder, split=split)
    found["trained grounder"] = {row["metric"]: row["value"] for row in rows}
  return [
    running.row(
      f"{who}: {metric}",
      values.get(metric),
      "share",
      # Of both: an answer that is worse than chance is a fault.
      at_least=found["random moments"].get(metric)
      if who == "encoder alone"
      else None,
      note=f"{split}, {len(asked.queries)} queries",
    )
    for who, values in found.items()
    for metric in METRICS
  ]


if __name__ == "__main__":
  running.main(
    measure,
    __doc__,
    options={
      "grounder": {"required": True, "help": "workdir of a grounding run"},
      "split": {"help": "default: the config's eval_split"},
    },
  )
