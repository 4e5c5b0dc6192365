"""Encodes the videos of episodes once each.

The support of an evaluation comes back in hundreds of episodes; the trunk of
the matcher sees one video at a time and gives the same for each of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from clap_jax.data import episode_batches
from clap_jax.data import episodes as episodes_lib
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.types import EpisodeBatch


def encode_videos(
  predictor: predictor_lib.Predictor,
  params: Any,
  videos: episode_batches.EpisodeVideos,
  *,
  batch_size: int,
) -> dict[str, Any]:
  """The levels of every video's pyramid by its id, as NumPy.

  Args:
    predictor: of a FewshotTask's `encode`.
    params: of the task.
    videos: to encode, all of them.
    batch_size: videos at a time, not more than the predictor takes.
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
  """A fixed list of episodes for `Matcher.match`."""

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
