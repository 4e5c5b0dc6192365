"""Samples few-shot episodes without leaks, and writes them.

An episode is one query video, n classes ("ways") and, for each of them, k
support videos ("shots"). Here

* every video that holds one of the classes is a query exactly once in a run;
* no support video of an episode is its query;
* an episode does not reveal for which class its query was drawn: ways are
  sorted by name.

The choices of the older protocol (`legacy_qat`) are kept for comparison with
its numbers: 1-way, a class and then one of its videos at random, supports drawn
with replacement that may include the query, hence a different set of queries
for every seed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clap_jax.data import shuffle
from clap_jax.storage import locations, output

INSTANCES = ("all", "single", "multi")
LEGACY_EPISODES_PER_RUN = 100
_FORMAT = "clap_jax episodes 1"

Counts = Mapping[str, Mapping[str, int]]  # video id -> class name -> segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeOptions:
  """Options of an episode: ways, shots and instances.

  `instances` selects the videos that count as examples of a class, both as
  queries and as support: those with exactly one segment of it ('single'), with
  more than one ('multi'), or all.
  """

  ways: int
  shots: int
  instances: str = "all"
  legacy_qat: bool = False


@dataclasses.dataclass(frozen=True)
class Episode:
  """An episode by ids and names, without the query's own class."""

  query: str
  classes: tuple[str, ...]  # (n,), sorted
  support: tuple[tuple[str, ...], ...]  # (n, k) video ids


@dataclasses.dataclass(frozen=True)
class EpisodeSet:
  """The runs of an evaluation, with everything that determines them."""

  facts: dict[str, Any]  # seed, dataset, split, class split, options
  runs: tuple[tuple[Episode, ...], ...]
  left_out: tuple[str, ...] = ()  # queries without enough support

  @property
  def num_episodes(self) -> int:
    return sum(map(len, self.runs))

  def to_dict(self) -> dict:
    runs = [[dataclasses.asdict(e) for e in run] for run in self.runs]
    document = {
      "format": _FORMAT,
      "facts": self.facts,
      "left_out": list(self.left_out),
      "runs": runs,
    }
    return json.loads(json.dumps(document))

  @property
  def sha256(self) -> str:
    """Returns the hash of the canonical JSON of everything above."""
    return _hash(self.to_dict())


class NotEnoughVideosError(ValueError):
  """Raised if the classes have too few videos for the episodes."""


class EpisodeSampler:
  """Draws episodes over given classes and videos."""

  def __init__(
    self, counts: Counts, classes: Sequence[str], options: EpisodeOptions
  ):
    """Collects the example videos of each class.

    Raises:
      NotEnoughVideosError: there are fewer classes than ways, or too few of
        them have a support and a query.
    """
    self.options = options
    self._videos = {
      name: sorted(
        video
        for video, of_video in counts.items()
        if _is_example(of_video.get(name, 0), options.instances)
      )
      for name in sorted(set(classes))
    }
    # One video more than shots, as no video is both support and query.
    needed = options.shots + (not options.legacy_qat)
    self._usable = [n for n, v in self._videos.items() if len(v) >= needed]
    if len(self._usable) < options.ways:
      raise NotEnoughVideosError(
        f"{options.ways}-way {options.shots}-shot episodes need "
        f"{options.ways} classes with at least {needed} videos each; these "
        "classes have "
        + ", ".join(f"{n}: {len(v)}" for n, v in self._videos.items())
        + f" (instances: {options.instances}). Ask for fewer ways or shots."
      )
    self._classes_of: dict[str, list[str]] = {}
    for name in self._usable:
      for video in self._videos[name]:
        self._classes_of.setdefault(video, []).append(name)
    self.queries = sorted(self._classes_of)
    self.left_out = sorted(
      {v for videos in self._videos.values() for v in videos}
      - set(self.queries)
    )

  def run(self, seed: int) -> tuple[Episode, ...]:
    """Returns every query once, in the order and with supports of `seed`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    if self.options.legacy_qat:
      return tuple(
        self._legacy_episode(rng) for _ in range(LEGACY_EPISODES_PER_RUN)
      )
    shuffled = [self.queries[i] for i in rng.permutation(len(self.queries))]
    return tuple(self._episode(query, rng) for query in shuffled)

  def episode(self, index: int, *, seed: int) -> Episode:
    """Returns episode `index` of an endless stream, queries in epochs."""
    number = shuffle.shuffled(index, length=len(self.queries), seed=seed)
    rng = np.random.Generator(np.random.PCG64(shuffle.mix(seed, 3, index)))
    return self._episode(self.queries[number], rng)

  def _episode(self, query: str, rng: np.random.Generator) -> Episode:
    """Makes an episode; hides `target` among its sorted classes."""
    own = self._classes_of[query]
    target = own[rng.integers(len(own))]
    others = [name for name in self._usable if name != target]
    drawn = rng.permutation(len(others))[: self.options.ways - 1]
    classes = sorted([target, *(others[i] for i in drawn)])
    return Episode(
      query,
      tuple(classes),
      tuple(self._support(c, query, rng) for c in classes),
    )

  def _support(self, name: str, query: str, rng) -> tuple[str, ...]:
    """Draws distinct support videos other than the query."""
    videos = [video for video in self._videos[name] if video != query]
    drawn = rng.permutation(len(videos))[: self.options.shots]
    return tuple(videos[i] for i in drawn)

  def _legacy_episode(self, rng: np.random.Generator) -> Episode:
    name = self._usable[rng.integers(len(self._usable))]
    videos = self._videos[name]
    drawn = rng.integers(len(videos), size=1 + self.options.shots)
    query, *support = (videos[i] for i in drawn)
    return Episode(query, (name,), (tuple(support),))


def draw(
  sampler: EpisodeSampler,
  *,
  seed: int,
  min_episodes: int,
  facts: Mapping[str, Any],
) -> EpisodeSet:
  """Draws whole runs, at least two, until there are `min_episodes`."""
  first = sampler.run(shuffle.mix(seed, 0))
  num_runs = max(2, math.ceil(min_episodes / len(first)))
  runs = (
    first,
    *(sampler.run(shuffle.mix(seed, i)) for i in range(1, num_runs)),
  )
  options = dataclasses.asdict(sampler.options)
  return EpisodeSet(
    {**facts, "seed": seed, **options}, runs, tuple(sampler.left_out)
  )


def write(path: locations.Location, episodes: EpisodeSet) -> str:
  """Writes the file including its hash; returns the hash."""
  document = episodes.to_dict() | {"sha256": episodes.sha256}
  output.write_text(path, json.dumps(document, indent=1) + "\n")
  return document["sha256"]


def _is_example(num_segments: int, instances: str) -> bool:
  if instances == "single":
    return num_segments == 1
  return num_segments > (1 if instances == "multi" else 0)


def _hash(document: dict) -> str:
  text = json.dumps(document, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()
