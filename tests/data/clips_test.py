"""Plans of clips: pure, balanced, with the right texts and nothing hidden."""

import collections

import numpy as np
import pytest

from clap_jax.data import class_leakage, shuffle
from clap_jax.data.clips import (
  GENERIC_BACKGROUND_TEXT,
  ClipSampler,
  Sampling,
  caption_clips,
  readable_label,
  text_id,
)
from clap_jax.data.records import ExampleInfo
from tests.data.built_dataset import LABEL_NAMES


def make_info(index: int = 0, **changes) -> ExampleInfo:
  fields = {
    "index": index,
    "id": f"v{index}",
    "fps": 8.0,
    "duration_sec": 12.0,
    "num_frames": 96,
    "height": 48,
    "width": 48,
    "segments": np.float32([(1.0, 3.5), (5.0, 7.5)]),
    "labels": np.int32([index % 3, (index + 1) % 3]),
    "captions": (
      (1.0, 3.5, "first action."),
      (5.0, 7.5, "Second action"),
      (7.5, 12.0, "nothing moves"),
    ),
    "background": np.float32([(0.0, 0.6), (3.5, 5.0), (7.5, 12.0)]),
  }
  return ExampleInfo(**(fields | changes))


def make_sampler(
  infos=None, *, clip_sec=1.0, hidden_classes=frozenset(), **options
) -> ClipSampler:
  infos = infos or [make_info(index) for index in range(12)]
  return ClipSampler(
    infos,
    Sampling(**options),
    clip_sec=clip_sec,
    label_names=LABEL_NAMES,
    hidden_classes=hidden_classes,
  )


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_permutation_is_one_and_differs_by_epoch(length):
  orders = [
    [
      shuffle.shuffled(e * length + i, length=length, seed=3)
      for i in range(length)
    ]
    for e in range(2)
  ]
  for one in orders:
    assert sorted(one) == list(range(length))
  if length > 3:
    assert orders[0] != orders[1] != list(range(length))


def test_orders_never_change():
  """These numbers are a promise: a resumed run must see the same items."""
  assert shuffle.mix(1, 2, 3) == 5246500226706903259
  found = [shuffle.shuffled(i, length=10, seed=5) for i in range(10)]
  assert found == [8, 6, 5, 0, 3, 1, 2, 9, 4, 7]
  # Any position of a large epoch costs the same.
  big = [shuffle.permute(i, length=10**9, seed=1) for i in (0, 10**9 - 1)]
  assert all(0 <= value < 10**9 for value in big)


def test_items_are_pure_and_each_segment_is_seen_once_per_epoch():
  sampler, again = make_sampler(), make_sampler()
  items = [sampler.item(i, seed=1) for i in range(len(sampler))]
  assert items == [again.item(i, seed=1) for i in range(len(again))]
  backwards = [sampler.item(i, seed=1) for i in reversed(range(len(sampler)))]
  assert items == backwards[::-1]
  assert items != [sampler.item(i, seed=2) for i in range(len(sampler))]
  assert sampler.item(0, seed=1) != sampler.item(0, seed=1, attempt=1)
  seen = collections.Counter(
    (item.record_index, item.class_id) for item in items if item.is_action
  )
  assert len(seen) == 24 and set(seen.values()) == {1}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_background_share_is_exact(share):
  sampler = make_sampler(background_share=share)
  items = [sampler.item(i, seed=0) for i in range(200)]
  background = [item for item in items if not item.is_action]
  assert len(background) == round(share * 200)
  assert all(item.class_id == -1 for item in background)
  only = make_sampler(background_share=0.5, action_only=True)
  assert all(only.item(i, seed=0).is_action for i in range(50))


def test_clips_lie_where_they_should():
  sampler = make_sampler(clip_sec=2.0)
  for index in range(300):
    item = sampler.item(index, seed=0)
    assert item.end_sec - item.start_sec == pytest.approx(2.0)
    middle_sec = (item.start_sec + item.end_sec) / 2
    if item.is_action:
      inside = [s for s in ((1.0, 3.5), (5.0, 7.5)) if s[0] < middle_sec < s[1]]
      assert item.start_sec >= inside[0][0] and item.end_sec <= inside[0][1]
    else:  # (0, 0.6) is too short to be background; (3.5, 5) is centred
      assert item.start_sec == 3.25 or item.start_sec >= 7.5
  items = [make_sampler().item(index, seed=0) for index in range(0, 100, 2)]
  assert len({item.start_sec for item in items if item.is_action}) > 45


def test_captions_describe_their_clips():
  sampler = make_sampler()
  for index in range(300):
    item = sampler.item(index, seed=0)
    middle_sec = (item.start_sec + item.end_sec) / 2
    if middle_sec < 1.0 or 3.5 < middle_sec < 5.0:
      assert not item.has_text and item.text_id == -1
      continue
    assert item.has_text
    assert item.caption_start_sec < middle_sec < item.caption_end_sec
    assert not item.generic_text


def test_own_caption_wins_where_actions_overlap():
  info = make_info(
    segments=np.float32([(2.0, 6.0), (3.0, 7.0)]),
    labels=np.int32([0, 1]),
    captions=((2.0, 6.0, "a"), (3.0, 7.0, "b"), (0.0, 12.0, "whole")),
  )
  sampler = make_sampler([info], background_share=0.0)
  for index in range(100):
    item = sampler.item(index, seed=0)
    assert item.text == "ab"[item.class_id]


def test_short_action_keeps_its_caption():
  info = make_info(
    segments=np.float32([(2.0, 2.4)]),
    labels=np.int32([0]),
    captions=((2.0, 2.4, "blink"),),
    background=np.zeros((0, 2), np.float32),
  )
  item = make_sampler([info], clip_sec=2.0).item(0, seed=0)
  assert item.text == "blink" and item.start_sec == pytest.approx(1.2)
  at_end = make_info(segments=np.float32([(11.8, 12.0)]), labels=np.int32([0]))
  item = make_sampler([at_end], clip_sec=2.0, action_only=True).item(0, seed=0)
  assert item.end_sec == pytest.approx(12.0)


def test_label_texts_and_prompted_background():
  labels = make_sampler(text_source="labels")
  prompted = make_sampler(text_source="prompted_background")
  texts = set()
  for index in range(100):
    item, other = labels.item(index, seed=0), prompted.item(index, seed=0)
    if item.is_action:
      assert LABEL_NAMES[item.class_id] in item.text
      assert item.text == other.text and not other.generic_text
      texts.add(item.text)
    else:
      assert not item.has_text
      assert other.text == GENERIC_BACKGROUND_TEXT and other.generic_text
  assert len(texts) > 6


def test_hidden_classes_leave_no_trace():
  sampler = make_sampler(hidden_classes=frozenset({1}))
  infos = [make_info(index) for index in range(12)]
  for index in range(200):
    item = sampler.item(index, seed=0)
    assert item.class_id != 1
    info = infos[item.record_index]
    hidden = info.segments[info.labels == 1]
    if item.has_text:
      for start_sec, end_sec in hidden:
        assert item.caption_end_sec <= start_sec or (
          item.caption_start_sec >= end_sec
        )
  with pytest.raises(ValueError, match="hiding 3 classes"):
    make_sampler(hidden_classes=frozenset({0, 1, 2}))


@pytest.mark.parametrize("clips_per_video", [1, 4])
def test_no_clip_overlaps_a_hidden_class(clips_per_video):
  """Neither one of an overlapping action, nor of the background beside it."""
  infos = [
    make_info(
      index,
      segments=np.float32([(1.0, 3.5), (3.0, 5.0), (8.0, 9.4)]),
      labels=np.int32([0, 1, 2]),
      background=np.float32([(0.0, 1.0), (5.0, 6.2), (9.4, 12.0)]),
    )
    for index in range(6)
  ]
  options = {
    "clip_sec": 2.0,
    "background_share": 0.5,
    "clips_per_video": clips_per_video,
  }
  everything = make_sampler(infos, **options)
  sampler = make_sampler(infos, hidden_classes=frozenset({1}), **options)
  items = [sampler.item(index, seed=0) for index in range(300)]
  assert {item.class_id for item in items} == {-1, 0, 2}
  assert all(
    item.end_sec <= 3.0 + 1e-6 or item.start_sec >= 5.0 for item in items
  )
  assert any(
    item.start_sec < 5.0 and item.end_sec > 3.0 and item.class_id != 1
    for item in (everything.item(index, seed=0) for index in range(300))
  )


def test_captions_that_name_a_hidden_class_are_hidden():
  """Although they lie where no segment of the class does."""
  infos = [
    make_info(
      index,
      labels=np.int32([0, 2]),
      captions=(
        (1.0, 3.5, "it slides, then starts spinning"),
        (5.0, 7.5, "it fades"),
      ),
    )
    for index in range(4)
  ]
  assert LABEL_NAMES[1] == "spins"
  sampler = make_sampler(infos, hidden_classes=frozenset({1}))
  texts = {sampler.item(index, seed=0).text for index in range(100)}
  assert texts == {"", "it fades"}


@pytest.mark.parametrize(
  ("text", "name", "is_named"),
  [
    ("a man shaves one leg.", "Shaving legs", True),
    ("a man shaves", "Shaving legs", False),
    ("She runs the marathon", "Running a marathon", True),
    ("the dog walks", "Walking the dog", True),
    ("two BMX riders", "BMX", True),
    ("it jumps", "LongJump", False),
    ("a long jump", "LongJump", True),
    ("nothing", "to the", False),
  ],
)
def test_names_are_found_in_other_forms(text, name, is_named):
  assert class_leakage.names_a_class(text, [name]) == is_named


def test_free_spans():
  assert class_leakage.free_spans([], end_sec=4.0) == [(0.0, 4.0)]
  spans = [(0.0, 1.0), (2.0, 5.0), (3.0, 4.0), (6.0, 9.0)]
  assert class_leakage.free_spans(spans, end_sec=9.0) == [
    (1.0, 2.0),
    (5.0, 6.0),
  ]
  assert class_leakage.free_spans([(5.0, 6.0)], end_sec=4.0) == [(0.0, 4.0)]


def test_background_of_the_same_video():
  sampler = make_sampler(same_video_background=True)
  items = [sampler.item(i, seed=4) for i in range(60)]
  pairs = list(zip(items[::2], items[1::2], strict=True))
  assert all(a.is_action and not b.is_action for a, b in pairs)
  assert all(a.record_index == b.record_index for a, b in pairs)


def test_background_without_texts():
  usual, without = (make_sampler(background_text=on) for on in (True, False))
  pairs = [
    [s.item(i, seed=4) for s in (usual, without)] for i in range(60)
  ]  # fmt: skip
  background = [pair for pair in pairs if not pair[0].is_action]
  assert any(one.has_text for one, _ in background)
  assert not any(other.has_text for _, other in background)
  for one, other in pairs:
    assert (one.record_index, one.start_sec) == (
      other.record_index, other.start_sec
    )  # fmt: skip
    assert one == other or not one.is_action


def test_text_ids():
  assert text_id("A red  square.\n") == text_id("a red square")
  assert text_id("a red square") != text_id("a red circle")
  assert text_id("a red square") == 301869444
  ids = [text_id(f"text {number}") for number in range(2000)]
  assert len(set(ids)) == 2000 and min(ids) >= 0 and max(ids) < 2**31
  assert readable_label("CleanAndJerk") == "clean and jerk"
  assert readable_label("long_jump") == "long jump"


def test_evaluation_lists():
  infos = [make_info(index) for index in range(3)]
  items = caption_clips(infos, clip_sec=2.0)
  assert len(items) == 9
  assert [item.class_id for item in items[:3]] == [0, 1, -1]
  assert items[0].start_sec == 1.25 and items[0].text == "first action."
  hidden = caption_clips(infos, clip_sec=2.0, hidden_classes=frozenset({1}))
  assert len(hidden) == 9 - 2


def test_clips_per_video_keeps_groups_together_and_visits_every_video():
  sampler = make_sampler(clips_per_video=4, background_share=0.5)
  items = [sampler.item(index, seed=5) for index in range(12 * 4)]
  groups = [items[i : i + 4] for i in range(0, len(items), 4)]
  videos = [{item.record_index for item in group} for group in groups]
  assert all(len(video) == 1 for video in videos)
  assert sorted(v for video in videos for v in video) == list(range(12))
  for group in groups:
    assert sum(item.is_action for item in group) == 2
  again = [sampler.item(index, seed=5) for index in range(12 * 4)]
  assert again == items
  other = [sampler.item(index, seed=6) for index in range(12 * 4)]
  assert other != items


@pytest.mark.parametrize("same_video_background", [False, True])
@pytest.mark.parametrize(
  ("share", "clips_per_video"),
  [(0.25, 2), (0.25, 3), (0.25, 4), (0.1, 4), (0.5, 3), (0.3, 2), (0.75, 2)],
)
def test_the_share_holds_for_any_number_of_clips_per_video(
  share, clips_per_video, same_video_background
):
  sampler = make_sampler(
    clips_per_video=clips_per_video,
    background_share=share,
    same_video_background=same_video_background,
  )
  items = [sampler.item(index, seed=3) for index in range(1200)]
  backgrounds = [not item.is_action for item in items]
  assert sum(backgrounds) == round(1200 * share)
  for first in range(0, 1200, 8):  # batches
    assert abs(sum(backgrounds[first : first + 8]) - 8 * share) < 1
  for first in range(0, 1200, clips_per_video):
    group = items[first : first + clips_per_video]
    assert len({item.record_index for item in group}) == 1
  # Every video gives background, not only those at some places of an epoch.
  assert {i.record_index for i in items if not i.is_action} == set(range(12))


def test_a_group_of_a_video_without_background_takes_that_of_another():
  bare = [
    make_info(index, background=np.zeros((0, 2), np.float32))
    for index in range(3)
  ]
  mixed = [*bare, make_info(3)]
  sampler = make_sampler(mixed, clips_per_video=4, background_share=0.5)
  items = [sampler.item(index, seed=1) for index in range(32)]
  background = [item.record_index for item in items if not item.is_action]
  assert background == [3] * 16
  for first in range(0, 32, 4):
    group = items[first : first + 4]
    assert len({item.record_index for item in group if item.is_action}) == 1


@pytest.mark.parametrize("text_source", ["captions", "captions_and_labels"])
def test_captions_without_labels_are_drawn(text_source):
  none = {"segments": np.zeros((0, 2)), "labels": np.zeros(0, np.int32)}
  infos = [make_info(index, **none) for index in range(4)]
  sampler = make_sampler(infos, text_source=text_source)
  items = [sampler.item(index, seed=1) for index in range(100)]
  assert {item.class_id for item in items} == {-1}
  actions = [item for item in items if item.is_action]
  assert len(actions) == 50
  assert all(item.has_text for item in actions)


def test_clips_across_a_boundary_state_how_much_of_them_is_action():
  sampler = make_sampler(boundary_share=0.5, background_share=0.25)
  items = [sampler.item(i, seed=0) for i in range(400)]
  crossing = [item for item in items if item.crossing_share is not None]
  actions = [item for item in items if item.is_action]
  assert 0.4 < len(crossing) / len(actions) < 0.6
  for item in crossing:
    info = make_info(item.record_index)
    covered_sec = sum(
      max(0.0, min(item.end_sec, end) - max(item.start_sec, start))
      for start, end in info.segments
    )
    assert item.is_action and not item.has_text
    assert item.start_sec >= 0 and item.end_sec <= info.duration_sec
    assert 0.19 < item.action_share < 0.81
    assert item.action_share == pytest.approx(covered_sec, abs=1e-6)
  # Both boundaries, of both actions.
  assert len({round(item.start_sec) for item in crossing}) >= 4
  assert {item.action_share for item in items if item not in crossing} == {0, 1}


def test_clips_across_a_boundary_see_no_other_action_and_no_hidden_class():
  touching = make_info(segments=np.float32([(1.0, 3.5), (3.5, 7.5)]))
  sampler = make_sampler([touching], boundary_share=1.0)
  for number in range(40):
    item = sampler.item(number, seed=0)
    if item.crossing_share is not None:
      assert item.start_sec < 1.0 or item.end_sec > 7.5
  hiding_one = make_sampler(
    [make_info(labels=np.int32([0, 1]))],
    boundary_share=1.0,
    clip_sec=4.0,
    hidden_classes=frozenset({1}),
  )
  for number in range(40):
    item = hiding_one.item(number, seed=0)
    assert item.end_sec <= 5.0 or item.start_sec >= 7.5


def test_without_clips_across_boundaries_items_are_as_before():
  plain, none = make_sampler(), make_sampler(boundary_share=0.0)
  assert [plain.item(i, seed=3) for i in range(50)] == [
    none.item(i, seed=3) for i in range(50)
  ]
