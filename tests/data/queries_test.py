import dataclasses

import numpy as np
import pytest

from clap_jax.data import queries
from clap_jax.data.queries import GroundingQuery, GroundingSplit
from tests.data.clips_test import make_info


def ask(video, text, *, windows=((0.0, 2.0),), labels=None, saliency=None):
  return GroundingQuery(
    id=f"{video}/{text}",
    video_id=video,
    text=text,
    windows=windows,
    labels=None if labels is None else frozenset(labels),
    saliency=saliency,
  )


def split_of(asked, video_labels=None):
  return GroundingSplit(
    tuple(asked),
    {query.video_id: 10.0 for query in asked},
    video_labels or {},
  )


def test_negative_queries_without_classes_differ_in_text():
  split = split_of(
    [ask("a", "A man runs."), ask("b", "a man  runs"), ask("b", "a dog sits")]
  )
  strangers = queries.NegativeQueries(split)
  assert not strangers.is_absent(split.queries[0], "a")
  assert not strangers.is_absent(split.queries[1], "a")  # equal text
  assert strangers.is_absent(split.queries[2], "a")


def test_negative_queries_with_classes_name_an_absent_action():
  split = split_of(
    [
      ask("a", "it spins", labels=[0]),
      ask("b", "the star spins", labels=[0]),
      ask("b", "it falls", labels=[1]),
      ask("b", "nothing happens", labels=[]),
    ],
    {"a": frozenset([0]), "b": frozenset([0, 1])},
  )
  strangers = queries.NegativeQueries(split)
  found = [strangers.is_absent(query, "a") for query in split.queries]
  assert found == [False, False, True, False]


def test_swapped_queries_are_fixed_and_as_many_as_the_own():
  asked = [ask(f"v{i // 3}", f"text {i}") for i in range(30)]
  split = split_of(asked)
  swapped = queries.swapped_queries(split, seed=0)
  assert swapped == queries.swapped_queries(split, seed=0)
  assert swapped != queries.swapped_queries(split, seed=1)
  assert set(swapped) == {query.video_id for query in asked}
  for video, positions in swapped.items():
    assert len(set(positions)) == len(positions) == 3
    assert all(asked[i].video_id != video for i in positions)


def test_one_video_has_no_negative_queries():
  assert queries.swapped_queries(split_of([ask("a", "x")]), seed=0) == {"a": []}


def test_saliency_of_snippets_and_back():
  scores = np.array([[0, 0, 0], [4, 4, 4], [2, 0, 4]], np.float32)
  query = ask("a", "x", saliency=scores)
  middle_sec = np.arange(0.5, 6.0, 1.0)  # two snippets per clip
  got = queries.snippet_saliency(query, middle_sec)
  np.testing.assert_allclose(got, [0, 0, 1, 1, 0.5, 0.5])
  back = queries.clip_saliency(got, middle_sec, duration_sec=6.0)
  np.testing.assert_allclose(back, [0, 1, 0.5])
  assert len(queries.clip_saliency(got, middle_sec, duration_sec=1.0)) == 1


def test_saliency_without_annotators_is_the_moment():
  query = ask("a", "x", windows=((1.0, 2.0), (4.0, 5.5)))
  got = queries.snippet_saliency(query, np.array([0.5, 1.0, 2.0, 4.5, 6.0]))
  np.testing.assert_array_equal(got, [0, 1, 0, 1, 0])


def test_unique_texts():
  asked = [ask("a", "x"), ask("b", "y"), ask("c", "x")]
  assert queries.unique_texts(asked) == ("x", "y")
  assert pytest.approx(queries.SALIENCY_CLIP_SEC) == 2.0


def test_equal_captions_of_one_moment_are_queries_of_their_own():
  info = make_info(0)
  again = dataclasses.replace(
    info, captions=(*info.captions, *info.captions[:1])
  )
  found = queries.caption_queries([again])
  assert len(found) == len(info.captions) + 1
  assert len({query.id for query in found}) == len(found)
  assert found[-1].text == found[0].text


def test_captions_become_queries_with_the_classes_they_tell_of():
  infos = [make_info(index) for index in range(2)]
  split = queries.caption_split(infos)
  assert [q.video_id for q in split.queries] == ["v0"] * 3 + ["v1"] * 3
  assert [q.windows for q in split.queries[:3]] == [
    ((1.0, 3.5),),
    ((5.0, 7.5),),
    ((7.5, 12.0),),
  ]
  assert [q.labels for q in split.queries] == [
    frozenset(labels) for labels in ([0], [1], [], [1], [2], [])
  ]
  assert split.video_labels == {"v0": {0, 1}, "v1": {1, 2}}
  assert len({query.id for query in split.queries}) == 6
