"""Few-shot localization methods: the trained matcher and its baselines."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clap_jax.data import episode_batches, feature_reader, pipeline
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import fewshot_encoding
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.models import episode_baselines, localizer
from clap_jax.training import mesh as mesh_lib


class Method(NamedTuple):
  """A method that finds the segments of episodes."""

  predictor: predictor_lib.Predictor
  params: Any
  episodes: Callable[
    [Sequence[episodes_lib.Episode]], episode_batches.EvaluationEpisodes
  ]


class Methods:
  """The trained matcher and its baselines, and what they find."""

  def __init__(self, config: Any, reader: feature_reader.FeatureReader):
    """Takes a FewshotConfig and a reader of its data."""
    self._config = config
    self._reader = reader

  def _predictor(self, predict) -> predictor_lib.Predictor:
    return predictor_lib.Predictor(
      predict,
      mesh=mesh_lib.make_mesh(self._config.mesh),
      batch_size=self._config.data.batch_size,
    )

  def trained(self, task, params, videos) -> Method:
    """The trained matcher, with all videos encoded."""
    encoded = fewshot_encoding.encode_videos(
      self._predictor(task.encode),
      params,
      videos,
      batch_size=self._config.data.batch_size,
    )
    return Method(
      self._predictor(task.predict_encoded),
      params,
      lambda drawn: fewshot_encoding.EncodedEpisodes(videos, drawn, encoded),
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
        self._predictor(decoded(points_of)),
        {},
        lambda drawn: episode_batches.EvaluationEpisodes(videos, drawn),
      )
      for name, points_of in baselines.items()
    }

  def find(self, method: Method, videos, drawn) -> list[tuple]:
    """(segments in seconds, scores, class names) of each episode in order."""
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
  """The trained method as rows and cards call it."""
  return "text_assisted" if task.model.config.use_text else "prototypes"
