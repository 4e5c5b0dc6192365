"""Defines few-shot localization methods: the matcher and its baselines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from clap_jax.data import episode_batches, feature_reader, pipeline
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.models import episode_baselines, localizer
from clap_jax.types import EpisodeBatch


class Method(NamedTuple):
  """A method that finds the segments of episodes."""

  predictor: predictor_lib.Predictor
  params: Any
  episodes: Callable[
    [Sequence[episodes_lib.Episode]], episode_batches.EvaluationEpisodes
  ]


class Methods:
  """Runs the trained matcher and its baselines on episodes."""

  def __init__(self, config: Any, reader: feature_reader.FeatureReader):
    """Takes a FewshotConfig and a reader of its data."""
    self._config = config
    self._reader = reader

  def trained(self, task, params, videos) -> Method:
    """Returns the trained matcher, with all videos encoded."""
    encoded = encode_videos(
      predictor_lib.of_config(task.encode, self._config),
      params,
      videos,
      batch_size=self._config.data.batch_size,
    )
    return Method(
      predictor_lib.of_config(task.predict_encoded, self._config),
      params,
      lambda drawn: EncodedEpisodes(videos, drawn, encoded),
    )

  def baselines(self, videos) -> dict[str, Method]:
    """Returns the untrained baselines by name."""
    temperature = self._config.evaluation.temperature
    logit_scale = self._reader.class_texts.logit_scale
    baselines = {
      "nearest_prototype": lambda batch: episode_baselines.nearest_prototype(
        batch, temperature=temperature
      ),
      "text_only": lambda batch: episode_baselines.text_only(
        batch, logit_scale=logit_scale
      ),
    }

    def decoded(points_of):
      return lambda _, batch: localizer.decode(
        points_of(batch), config=self._config.decode
      )

    return {
      name: Method(
        predictor_lib.of_config(decoded(points_of), self._config),
        {},
        lambda drawn: episode_batches.EvaluationEpisodes(videos, drawn),
      )
      for name, points_of in baselines.items()
    }

  def find(self, method: Method, videos, drawn) -> list[tuple]:
    """Returns (segments in seconds, scores, class names) per episode."""
    flat = [episode for run in drawn.runs for episode in run]
    info_of = {info.id: info for info in videos.examples}
    found: list[tuple] = [()] * len(flat)
    with pipeline.evaluation_batches(
      method.episodes(flat), batch_size=self._config.data.batch_size
    ) as batches:
      for batch, output in predictor_lib.predict_batches(
        method.predictor, method.params, batches
      ):
        for row, index in enumerate(batch.episode_index):
          if index < 0:
            continue
          episode, keep = flat[index], output.mask[row]
          segments = videos.grid(episode.query).to_seconds(
            output.segments[row][keep].astype(np.float64)
          )
          found[index] = (
            segments.clip(0.0, info_of[episode.query].duration_sec),
            output.scores[row][keep],
            [episode.classes[label] for label in output.labels[row][keep]],
          )
    return found


def method_name(task) -> str:
  """Returns the name of the trained method in rows and cards."""
  return "text_assisted" if task.model.config.use_text else "prototypes"


def encode_videos(
  predictor: predictor_lib.Predictor,
  params: Any,
  videos: episode_batches.EpisodeVideos,
  *,
  batch_size: int,
) -> dict[str, Any]:
  """Encodes every video; returns its pyramid levels by id, as NumPy.

  Support videos recur in hundreds of episodes; the trunk of the matcher encodes
  one video at a time, with the same result in each of them.

  Args:
    predictor: predictor of a FewshotTask's `encode`.
    params: parameters of the task.
    batch_size: videos at a time, at most the predictor's batch size.
  """
  ids = [info.id for info in videos.examples]

  def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(ids), batch_size):
      part = [videos.video(name) for name in ids[start : start + batch_size]]
      yield (
        np.stack([video.features for video in part]),
        np.stack([video.mask for video in part]),
      )

  rows: list[Any] = []
  for _, levels in predictor_lib.predict_batches(predictor, params, batches()):
    count = len(jax.tree.leaves(levels)[0])
    rows += [jax.tree.map(lambda x, i=i: x[i], levels) for i in range(count)]
  return dict(zip(ids, rows, strict=True))


class EncodedEpisodes(episode_batches.EvaluationEpisodes):
  """Yields a fixed list of episodes for `Matcher.match`."""

  def __init__(
    self,
    videos: episode_batches.EpisodeVideos,
    episodes: Sequence[episodes_lib.Episode],
    encoded: Mapping[str, Any],
  ):
    super().__init__(videos, episodes)
    self._encoded = encoded

  def collate(self, examples, *, batch_size: int) -> EpisodeBatch:
    batch = super().collate(examples, batch_size=batch_size)
    drawn = [self._episodes[example.episode_index] for example in examples]
    queries = [self._encoded[episode.query] for episode in drawn]
    padding = [jax.tree.map(np.zeros_like, queries[0])]
    padding *= batch_size - len(queries)
    finest = queries[0][0].features
    support = np.zeros(
      (*batch.support_mask.shape[:3], *finest.shape), np.float32
    )
    for row, episode in enumerate(drawn):
      for way, names in enumerate(episode.support):
        for shot, name in enumerate(names):
          support[row, way, shot] = self._encoded[name][0].features
    return batch._replace(
      query=jax.tree.map(lambda *rows: np.stack(rows), *queries, *padding),
      support=support,
    )
