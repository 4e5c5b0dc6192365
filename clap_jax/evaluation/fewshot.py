"""Evaluates few-shot localization on episodes."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clap_jax import config as config_lib
from clap_jax.data import class_splits, episode_batches, feature_reader
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import (
  fewshot_cards,
  fewshot_methods,
  results,
)
from clap_jax.metrics import card, detection, intervals, protocols, tables
from clap_jax.storage import locations
from clap_jax.training import processes

# Minimum instance length as a fraction of the video, by shots. The older
# protocol drops shorter ground truth of multi-instance episodes.
_LEGACY_MIN_SHARE = {1: 0.1, 5: 0.2}

# Predictions of one episode: segments in seconds (n, 2), scores (n,), names.
Found = tuple[np.ndarray, np.ndarray, list[str]]


@dataclasses.dataclass(frozen=True)
class TrainingShape:
  """Ways, shots and instances of training episodes."""

  ways: int = config_lib.ranged(minimum=1)
  shots: int = config_lib.ranged(minimum=1)
  instances: str = config_lib.choice(*episodes_lib.INSTANCES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """Episodes of an evaluation: all ways, shots and instances combined."""

  ways: tuple[int, ...] = config_lib.ranged(minimum=1)
  shots: tuple[int, ...] = config_lib.ranged(minimum=1)
  instances: tuple[str, ...] = config_lib.choice(*episodes_lib.INSTANCES)
  min_episodes: int = config_lib.ranged(minimum=1)  # in two or more whole runs
  seed: int = config_lib.ranged(minimum=0)  # of drawing, for all encoders
  temperature: float = config_lib.ranged(above=0.0)  # of nearest prototype
  legacy_qat: bool  # uses the older protocol, to compare with its results

  def __post_init__(self):
    if not (self.ways and self.shots and self.instances):
      raise ValueError(
        "ways, shots and instances need at least one value each."
      )
    if self.legacy_qat and set(self.ways) != {1}:
      raise ValueError(f"legacy_qat is 1-way: ways must be (1,): {self.ways}.")


class Setting(NamedTuple):
  """Ways, shots and instances of one result."""

  ways: int
  shots: int
  instances: str

  def __str__(self) -> str:
    """Returns the name in rows and files; "all" instances are implicit."""
    suffix = "" if self.instances == "all" else f"_{self.instances}"
    return f"{self.ways}way_{self.shots}shot{suffix}"


class Evaluator:
  """Draws episodes, predicts them with every method, and scores the runs."""

  def __init__(
    self,
    config: Any,
    reader: feature_reader.FeatureReader,
    split: class_splits.ClassSplit,
  ):
    self._config = config
    self._reader = reader
    self._methods = fewshot_methods.Methods(config, reader)
    self._classes = split
    self._protocol = protocols.PROTOCOLS[config.protocol]
    self._novel_videos: dict[str, episode_batches.EpisodeVideos] = {}
    self._seen = fewshot_cards.check_seen(
      reader.extraction, split, allow=config.allow_seen_classes
    )

  def videos(
    self, split: str, *, hidden: Sequence[str]
  ) -> episode_batches.EpisodeVideos:
    return episode_batches.EpisodeVideos(
      self._reader.examples(split),
      self._reader.features(split),
      label_names=self._reader.dataset.label_names,
      max_length=self._config.data.max_length,
      texts=self._reader.class_texts,
      hidden_names=hidden,
    )

  def _videos_of_novel(self, split: str) -> episode_batches.EpisodeVideos:
    if split not in self._novel_videos:
      self._novel_videos[split] = self.videos(split, hidden=())
    return self._novel_videos[split]

  def draw(
    self,
    videos: episode_batches.EpisodeVideos,
    split: str,
    *,
    part: str,
    setting: Setting,
    min_episodes: int,
  ) -> episodes_lib.EpisodeSet:
    """Draws episodes over one part of the class split."""
    config = self._config.evaluation
    options = episodes_lib.EpisodeOptions(
      **setting._asdict(), legacy_qat=config.legacy_qat
    )
    names = getattr(self._classes, part)
    return episodes_lib.draw(
      episodes_lib.EpisodeSampler(videos.counts(), names, options),
      seed=config.seed,
      min_episodes=min_episodes,
      facts={
        "dataset": self._config.data.dataset,
        "split": split,
        "class_split": self._classes.name,
        "part": part,
        "classes": sorted(names),
        "videos_hash": card.split_hash(info.id for info in videos.examples),
      },
    )

  def draw_all(self, split: str) -> dict[str, episodes_lib.EpisodeSet]:
    """Draws the episodes of the novel classes of all settings, by name."""
    config = self._config.evaluation
    settings = itertools.product(config.ways, config.shots, config.instances)
    drawn = {
      str(setting): self.draw(
        self._videos_of_novel(split),
        split,
        part="novel",
        setting=setting,
        min_episodes=config.min_episodes,
      )
      for setting in itertools.starmap(Setting, settings)
    }
    for setting, episodes in drawn.items():
      if not min(self._num_ground_truths(episodes, split)):
        raise ValueError(
          f"{setting}: a run of its episodes has no segment to score against. "
          "legacy_qat drops segments of less than "
          f"{legacy_min_share(episodes.facts)} of their video: "
          "use evaluation.instances=('single',), where it drops none."
        )
    return drawn

  def _num_ground_truths(self, drawn, split: str) -> list[int]:
    """Returns the number of ground-truth segments of each run."""
    return [len(truth) for truth in self._ground_truths(drawn, split)]

  def _ground_truths(
    self, drawn: episodes_lib.EpisodeSet, split: str
  ) -> list[tables.SegmentTable]:
    """Returns each run's query segments, each episode as its own video."""
    infos = {info.id: info for info in self._reader.examples(split)}
    label_names = self._reader.dataset.label_names
    min_share = legacy_min_share(drawn.facts)

    def truth_of(run: Sequence[episodes_lib.Episode]) -> tables.SegmentTable:
      rows = [
        (key, start_sec, end_sec, label_names[int(label)])
        for key, episode in zip(_keys(run), run, strict=True)
        for (start_sec, end_sec), label in zip(
          infos[episode.query].segments.astype(np.float64),
          infos[episode.query].labels,
          strict=True,
        )
        if label_names[int(label)] in episode.classes
        and end_sec - start_sec >= min_share * infos[episode.query].duration_sec
      ]
      return tables.SegmentTable.from_rows(rows, video_names=tuple(_keys(run)))

    return [truth_of(run) for run in drawn.runs]

  def check(self) -> None:
    """Draws the episodes of the selection and the evaluation split.

    Raises:
      ValueError: if a split has too few videos of the classes.
    """
    data = self._config.data
    drawings = {
      "eval_split": ("novel", self.draw_all),
      "selection_split": ("validation", self._draw_selection),
    }
    for key, (part, draw) in drawings.items():
      split = getattr(data, key)
      if split is None or not getattr(self._classes, part):
        continue
      try:
        draw(split)
      except episodes_lib.NotEnoughVideosError as error:
        raise ValueError(
          f"data.{key} is {split!r}, class_split {self._config.class_split!r}, "
          f"{part} classes: {error} Their numbers are evaluation.ways and "
          "evaluation.shots."
        ) from error

  def _draw_selection(self, split: str):
    """Draws two runs of one setting over the validation classes.

    The novel classes are masked: they must not influence model selection.
    """
    config = self._config.evaluation
    setting = Setting(config.ways[0], config.shots[0], config.instances[0])
    videos = self.videos(split, hidden=self._classes.novel)
    drawn = self.draw(
      videos, split, part="validation", setting=setting, min_episodes=1
    )
    return setting, videos, drawn

  def selection(self, task, params, split: str) -> dict[str, float]:
    """Evaluates the trained method on the validation classes."""
    if not self._classes.validation:
      return {}
    setting, videos, drawn = self._draw_selection(split)
    found = self._methods.find(
      self._methods.trained(task, params, videos), videos, drawn
    )
    values = self.run_metrics(drawn, found, split)["average_map"]
    return {f"{setting}/average_map": float(np.mean(values))}

  def rows(
    self, task, params, split: str, *, workdir: locations.Location | None = None
  ) -> list[dict]:
    """Returns result rows of all settings and methods on the novel classes."""
    videos, rows = self._videos_of_novel(split), []
    methods = {
      fewshot_methods.method_name(task): self._methods.trained(
        task, params, videos
      )
    }
    methods |= self._methods.baselines(videos)
    for setting, drawn in self.draw_all(split).items():
      if workdir is not None and processes.is_first():
        episodes_lib.write(workdir / f"episodes_{setting}.json", drawn)
      for name, method in methods.items():
        found = self._methods.find(method, videos, drawn)
        rows += self._rows_of(setting, name, drawn, found, split)
    return rows

  def run_metrics(
    self, drawn: episodes_lib.EpisodeSet, found: Sequence[Found], split: str
  ) -> dict[str, list[float]]:
    """Computes each metric per run: mAP over all queries of the run.

    Args:
      found: predictions for each episode, run after run.
    """
    values: dict[str, list[float]] = {}
    start = 0
    truths = self._ground_truths(drawn, split)
    for run, truth in zip(drawn.runs, truths, strict=True):
      part = found[start : start + len(run)]
      start += len(run)
      metrics = detection.evaluate(
        _predictions(run, part), truth, self._protocol
      )
      for name, value in metrics.items():
        values.setdefault(name, []).append(value)
    return values

  def _rows_of(self, setting, method, drawn, found, split) -> list[dict]:
    config, rows = self._config, []
    shared = self._card(drawn, found, split, method)
    for name, values in self.run_metrics(drawn, found, split).items():
      interval = intervals.mean_interval(values)
      rows += results.rows_of(
        {f"{setting}/{method}/{name}": interval.mean},
        encoder=self._reader.extraction["encoder"],
        seed=config.loop.seed,
        dataset=self._reader.dataset.name,
        split=split,
        task="fewshot",
        card=shared | {"interval_95": [interval.low, interval.high]},
      )
    return rows

  def _card(self, drawn, found, split: str, method: str) -> dict:
    config, facts = self._config, drawn.facts
    min_share = legacy_min_share(facts)
    document = self._reader.card(
      split,
      task="fewshot",
      protocol=f"few-shot localization, {facts['ways']}-way {facts['shots']}-"
      f"shot, instances {facts['instances']}; mAP of {config.protocol} over "
      "all queries of a run, mean over runs",
      thresholds=self._protocol.thresholds,
      nms=f"Gaussian soft-NMS, sigma {config.decode.sigma}, class-wise",
      top_k=f"{config.decode.num_kept} per query",
      class_source=f"{method}, among the ways; no external classifier",
      seeds=(config.loop.seed,),
      num_predictions=sum(len(scores) for _, scores, _ in found),
      num_ground_truths=sum(self._num_ground_truths(drawn, split)),
      ground_truth_filter=f"shorter than {min_share} of the video"
      if min_share
      else "none",
      notes=(
        *fewshot_cards.notes(drawn, self._classes, seen=self._seen),
        fewshot_cards.METHODS[method],
      ),
    )
    names = self._reader.dataset.label_names
    novel = {names.index(name) for name in self._classes.novel}
    have = {info.id for info in self._videos_of_novel(split).examples}
    without_features = [
      info.id
      for info in self._reader.examples(split)
      if info.id not in have and novel & set(info.labels.tolist())
    ]
    return document | fewshot_cards.facts_of(
      drawn, without_features=without_features
    )


def legacy_min_share(facts: Mapping) -> float:
  """Returns the minimum share of its video of an instance in a set."""
  if not facts["legacy_qat"] or facts["instances"] == "single":
    return 0.0
  return _LEGACY_MIN_SHARE.get(facts["shots"], 0.0)


def _predictions(run, found) -> tables.DetectionTable:
  columns: dict[str, list] = {
    name: [] for name in ("video", "start_sec", "end_sec", "label", "score")
  }
  for key, (segments, scores, labels) in zip(_keys(run), found, strict=True):
    columns["video"] += [key] * len(segments)
    columns["start_sec"] += segments[:, 0].tolist()
    columns["end_sec"] += segments[:, 1].tolist()
    columns["label"] += labels
    columns["score"] += np.asarray(scores).tolist()
  return tables.DetectionTable.from_columns(
    **columns, video_names=tuple(_keys(run))
  )


def _keys(run) -> list[str]:
  """Returns a unique name per episode: older protocols repeat queries."""
  return [f"{number}/{episode.query}" for number, episode in enumerate(run)]
