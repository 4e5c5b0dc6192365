"""Episodes without leaks: every way in which the query could be known."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from clap_jax.data import class_splits, episodes

CLASSES = ("a", "b", "c", "d")


def make_counts(num_videos: int = 30, seed: int = 0) -> dict:
  """Up to two classes per video; a third of the videos hold none of them."""
  rng = np.random.default_rng(seed)
  return {
    f"v{number:02d}": {
      str(name): int(rng.integers(1, 4))
      for name in rng.choice(CLASSES, 2, replace=False)
    }
    if number % 3
    else {"other": 2}
    for number in range(num_videos)
  }


def make_sampler(counts=None, **options) -> episodes.EpisodeSampler:
  options = {"ways": 2, "shots": 3} | options
  return episodes.EpisodeSampler(
    counts or make_counts(), CLASSES, episodes.EpisodeOptions(**options)
  )


def all_episodes(sampler, num_runs=20) -> list[episodes.Episode]:
  return [e for seed in range(num_runs) for e in sampler.run(seed)]


@pytest.mark.parametrize("ways", [1, 2, 4])
@pytest.mark.parametrize("shots", [1, 3, 5])
def test_support_and_query_are_disjoint_by_video(ways, shots):
  counts = make_counts()
  for episode in all_episodes(make_sampler(ways=ways, shots=shots)):
    assert len(episode.classes) == len(episode.support) == ways
    for name, videos in zip(episode.classes, episode.support, strict=True):
      assert episode.query not in videos
      assert len(set(videos)) == shots, "a video must not count twice"
      assert all(name in counts[video] for video in videos)
    assert set(episode.classes) & set(counts[episode.query])


def test_every_video_of_the_classes_is_a_query_exactly_once_per_run():
  counts = make_counts()
  holders = {v for v, found in counts.items() if set(found) & set(CLASSES)}
  sampler = make_sampler(counts)
  for seed in range(5):
    queries = [episode.query for episode in sampler.run(seed)]
    assert len(queries) == len(set(queries))
    assert set(queries) == holders
  assert not sampler.left_out


def test_an_episode_does_not_tell_the_class_of_its_query():
  """Ways are sorted, and no other field could hold it."""
  fields = {field.name for field in dataclasses.fields(episodes.Episode)}
  assert fields == {"query", "classes", "support"}
  places = [0, 0]
  counts = {f"v{i}": {CLASSES[i % 4]: 1} for i in range(40)}
  for episode in all_episodes(make_sampler(counts)):
    assert list(episode.classes) == sorted(episode.classes)
    (own,) = counts[episode.query]
    places[episode.classes.index(own)] += 1
  assert min(places) / sum(places) > 0.4, "the place gives the class away"


@pytest.mark.parametrize("instances", episodes.INSTANCES)
def test_single_and_multi_instance_hold_for_query_and_support(instances):
  counts = make_counts(60)
  for episode in all_episodes(make_sampler(counts, instances=instances), 5):
    for name, videos in zip(episode.classes, episode.support, strict=True):
      numbers = [counts[video][name] for video in videos]
      if instances == "single":
        assert set(numbers) == {1}
      if instances == "multi":
        assert min(numbers) > 1
    own = [counts[episode.query].get(name, 0) for name in episode.classes]
    wanted = {"single": 1 in own, "multi": max(own) > 1, "all": max(own) > 0}
    assert wanted[instances]


def test_episodes_follow_the_seed_alone_and_never_change():
  first, again = make_sampler(), make_sampler()
  assert first.run(3) == again.run(3) != first.run(4)
  stream = [first.episode(i, seed=1) for i in range(50)]
  assert stream == [again.episode(i, seed=1) for i in range(50)]
  assert stream != [again.episode(i, seed=2) for i in range(50)]
  drawn = episodes.draw(first, seed=0, min_episodes=50, facts={"split": "x"})
  assert drawn.sha256 == GOLDEN_HASH


# A promise: published episodes must be drawn again as they were.
GOLDEN_HASH = "705ea1c47623368992f8341973f97833f36a9d8194f8ac1073322e1f46072943"


def test_whole_runs_until_there_are_enough():
  sampler = make_sampler()
  per_run = len(sampler.queries)
  drawn = episodes.draw(sampler, seed=0, min_episodes=1000, facts={})
  assert drawn.num_episodes >= 1000 > drawn.num_episodes - per_run
  assert {len(run) for run in drawn.runs} == {per_run}
  assert len(set(drawn.runs)) == len(drawn.runs), "runs must differ"
  assert len(episodes.draw(sampler, seed=0, min_episodes=1, facts={}).runs) == 2


def test_the_file_and_its_hash(tmp_path):
  path = tmp_path / "episodes.json"
  drawn = episodes.draw(
    make_sampler(), seed=5, min_episodes=1, facts={"split": "validation"}
  )
  stated = episodes.write(path, drawn)
  document = json.loads(path.read_text())
  assert stated == document.pop("sha256") == drawn.sha256
  assert document == drawn.to_dict()
  assert document["facts"]["seed"] == 5 and document["facts"]["ways"] == 2
  other = episodes.draw(
    make_sampler(), seed=6, min_episodes=1, facts={"split": "validation"}
  )
  assert other.sha256 != stated


def test_too_few_videos_are_named():
  counts = {"v0": {"a": 1}, "v1": {"a": 1}, "v2": {"b": 1}}
  with pytest.raises(episodes.NotEnoughVideosError, match="a: 2, b: 1"):
    make_sampler(counts, ways=2, shots=1)
  # One class suffices; the video of the other one is named as left out.
  sampler = make_sampler(counts, ways=1, shots=1)
  assert sampler.queries == ["v0", "v1"]
  assert sampler.left_out == ["v2"]


def test_the_older_protocol_leaks_where_it_is_said_to():
  sampler = make_sampler(ways=1, shots=5, legacy_qat=True)
  run = sampler.run(0)
  assert len(run) == episodes.LEGACY_EPISODES_PER_RUN
  queries = [episode.query for episode in run]
  assert len(set(queries)) < len(queries)
  assert set(queries) != {episode.query for episode in sampler.run(1)}
  supports = [(e.query, e.support[0]) for e in all_episodes(sampler, 3)]
  assert any(query in videos for query, videos in supports)
  assert any(len(set(videos)) < 5 for _, videos in supports)


def test_the_novel_videos_of_activitynet(shared_data):
  """495 of the validation set, 106 of them with more than one instance."""
  path = shared_data / "activitynet_v1.3" / "activity_net.v1-3.rebuilt.json"
  novel = class_splits.class_split("activitynet_160_20_20").novel
  counts = {
    name: collections.Counter(a["label"] for a in video["annotations"])
    for name, video in json.loads(path.read_text())["database"].items()
    if video["subset"] == "validation"
  }
  sizes = {"all": 495, "single": 389, "multi": 106}
  for instances, size in sizes.items():
    sampler = episodes.EpisodeSampler(
      counts,
      novel,
      episodes.EpisodeOptions(ways=5, shots=5, instances=instances),
    )
    assert len(sampler.queries) + len(sampler.left_out) == size
    assert instances == "multi" or not sampler.left_out
    run = sampler.run(0)
    assert sorted(e.query for e in run) == sampler.queries
    assert all(e.query not in {v for s in e.support for v in s} for e in run)
