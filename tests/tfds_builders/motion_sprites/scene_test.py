"""Scenes are reproducible, their annotations true, and nothing leaks."""

import dataclasses

import numpy as np
import pytest

from tfds_builders.motion_sprites import (
  captions,
  choreography,
  near_misses,
  scene,
  sizes,
  sprites,
  vague,
  verbs,
)

DEMO = sizes.get_config("demo")


def _scenes(split, count, config=DEMO):
  return [
    scene.make_scene(0, split, index=i, config=config) for i in range(count)
  ]


@pytest.fixture(scope="module")
def train():
  return _scenes("train", 320)


@pytest.fixture(scope="module")
def validation():
  return _scenes("validation", 80)


def test_same_arguments_same_scene_and_frames():
  first, again = (
    scene.make_scene(3, "train", index=5, config=DEMO) for _ in range(2)
  )
  assert scene.annotate(first) == scene.annotate(again)
  np.testing.assert_array_equal(scene.draw(first), scene.draw(again))


@pytest.mark.parametrize(
  "seed,split,index", [(4, "train", 5), (3, "selection", 5), (3, "train", 6)]
)
def test_every_argument_matters(seed, split, index):
  first = scene.make_scene(3, "train", index=5, config=DEMO)
  other = scene.make_scene(seed, split, index=index, config=DEMO)
  assert scene.annotate(first) != scene.annotate(other)


def test_some_frames_are_the_frames_of_the_whole(train):
  whole = scene.draw(train[0])
  part = slice(37, 55)
  np.testing.assert_array_equal(scene.draw(train[0], part), whole[part])


def test_class_splits_partition_the_classes():
  members = [v for group in scene.CLASS_SPLITS.values() for v in group]
  assert sorted(members) == sorted(verbs.CLASS_NAMES)
  assert len(verbs.CLASS_NAMES) == 22
  assert set(scene.CLASS_SPLITS) == {"base", "validation", "novel"}


def test_every_class_is_well_represented(train):
  counts = dict.fromkeys(verbs.CLASS_NAMES, 0)
  for action in (a for s in train for a in s.actions):
    counts[action.verb] += 1
  assert sum(counts.values()) > 1_100
  assert min(counts.values()) >= 35


def test_a_third_to_a_half_of_the_time_is_action(train):
  annotations = [scene.annotate(s) for s in train]
  rest = sum(e - s for a in annotations for s, e in a["background"])
  total = sum(a["duration"] for a in annotations)
  assert 0.35 < 1 - rest / total < 0.5


def test_spans_lie_in_the_video_and_background_is_the_complement(train):
  for annotation in map(scene.annotate, train[:80]):
    fps, count = annotation["fps"], annotation["num_frames"]
    assert annotation["duration"] == count / fps
    covered = np.zeros(count, bool)
    for item in annotation["annotations"]:
      start, end = (round(x * fps) for x in item["segment"])
      assert 0 <= start < end <= count
      assert 2.0 - 1e-6 <= (end - start) / fps <= 5.0
      covered[start:end] = True
    for start, end in annotation["background"]:
      part = slice(round(start * fps), round(end * fps))
      assert not covered[part].any()
      covered[part] = True
    gaps = np.diff(np.flatnonzero(np.diff(np.r_[1, covered, 1])))[::2]
    assert all(gap / fps <= 0.5 for gap in gaps)  # only the short ones remain


def test_every_action_has_a_caption_that_names_actor_and_motion(train):
  for one in train[:80]:
    annotation = scene.annotate(one)
    texts = [(tuple(c["segment"]), c["text"]) for c in annotation["captions"]]
    for item in annotation["annotations"]:
      stems = [p.split(" {")[0] for p in captions.PHRASES[item["label"]]]
      same = [t for span, t in texts if span == tuple(item["segment"])]
      assert any(
        any(stem in t for stem in stems)
        and (item["colour"] in t or item["shape"] in t)
        for t in same
      ), (item, same)
    assert len({t for _, t in texts if "{" in t}) == 0


def test_relations_in_captions_are_true(train):
  checked = 0
  for one in train:
    for action in one.actions:
      start, end = (x / one.fps for x in (action.start, action.end))
      for caption in one.captions:
        words = caption["text"].split("towards the ")
        if caption["segment"] != [start, end] or len(words) != 2:
          continue
        named = [
          i
          for i, look in enumerate(one.looks)
          if i != action.actor
          and (look.colour in words[1] or look.shape in words[1])
        ]
        path = one.poses[:, [action.start, action.end - 1], :2]
        gap = np.hypot(*(path[named] - path[action.actor]).transpose(2, 0, 1))
        assert any(gap[:, 1] < gap[:, 0] - 8), caption
        checked += 1
  assert checked > 20


def test_held_out_combinations_and_templates_only_in_validation(
  train, validation
):
  def combinations(scenes):
    return {
      (s.looks[a.actor].colour, s.looks[a.actor].shape, a.verb)
      for s in scenes
      for a in s.actions
    }

  selection = _scenes("selection", 40)
  for known in (train, selection):
    assert not any(choreography.is_held_out(*c) for c in combinations(known))
  unseen = [choreography.is_held_out(*c) for c in combinations(validation)]
  assert 0.1 < np.mean(unseen) < 0.6
  starts = ("it is the", "for 2 seconds", "for 3 seconds", "for 4 seconds")
  texts = [c["text"] for s in [*train, *selection] for c in s.captions]
  assert not any(t.startswith(starts) or ": now it" in t for t in texts)
  texts = [c["text"] for s in validation for c in s.captions]
  assert sum(t.startswith(starts) or ": now it" in t for t in texts) > 40


def test_sprites_of_one_video_can_be_told_apart(train):
  for one in train:
    looks = [(look.colour, look.shape) for look in one.looks]
    assert 2 <= len(looks) == len(set(looks)) <= 4


def test_actors_stay_in_the_frame_and_start_without_a_jump(train):
  for one in train[:80]:
    for action in one.actions:
      path = one.poses[action.actor, :, :2]
      acted = path[action.start : action.end]
      assert acted.min() > -2 and acted.max() < sprites.FRAME_UNITS + 2
      cut = any(
        abs((e.start + e.end) // 2 - action.start) < 2
        for e in one.events
        if e.kind == "cut"
      )
      if not cut and action.start:
        step = np.hypot(*(path[action.start] - path[action.start - 1]))
        assert step < 10


def test_resting_sprites_are_in_every_state_that_actors_reach(train):
  """Scale, stretch and opacity of a resting sprite say nothing."""
  resting = []
  for one in train[:120]:
    for index in range(len(one.looks)):
      busy = np.zeros(one.num_frames, bool)
      for action in one.actions:
        if action.actor == index:
          busy[action.start : action.end] = True
      resting.append(one.poses[index, ~busy][::16, 3:])
  resting = np.concatenate(resting)
  for column, (low, high) in enumerate(
    (verbs.SCALE_RANGE, verbs.STRETCH_RANGE, verbs.OPACITY_RANGE)
  ):
    values = resting[:, column]
    assert values.min() < low + 0.1 * (high - low)
    assert values.max() > high - 0.1 * (high - low)


def test_full_size_draws_other_rates_and_sides():
  config = sizes.get_config("full")
  shapes = set()
  for one in _scenes("train", 12, config):
    shapes.add((one.fps, one.size_px))
    frames = scene.draw(one, slice(0, 3))
    assert frames.shape == (3, one.size_px, one.size_px, 3)
  assert len(shapes) > 4
  assert dataclasses.replace(config).num_videos["train"] == 18_000


def test_unknown_size_names_the_choices():
  with pytest.raises(ValueError, match="tiny, demo, full"):
    sizes.get_config("huge")


def _variant(name, count=40, split="train"):
  config = sizes.get_config(name)
  return [scene.annotate(s) for s in _scenes(split, count, config)]


def _background_share(annotations):
  rest = sum(e - s for a in annotations for s, e in a["background"])
  return rest / sum(a["duration"] for a in annotations)


def test_variants_change_one_property():
  usual = _variant("demo")
  shares = [
    _background_share(annotations)
    for annotations in (
      _variant("demo-gaps_0.25"), usual, _variant("demo-gaps_2.5")
    )
  ]  # fmt: skip
  assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1
  few = _variant("demo-classes_6")
  assert {a["label"] for v in few for a in v["annotations"]} == set(
    verbs.CLASS_NAMES[:6]
  )
  calm = _variant("demo-distractors_0")
  assert {e["kind"] for v in calm for e in v["events"]} == {"rest"}
  busy = _variant("demo-distractors_2")
  assert "rest" not in {e["kind"] for v in busy for e in v["events"]}
  assert calm[0]["annotations"] == usual[0]["annotations"]


def test_noise_moves_the_boundaries_of_training_alone():
  for split, is_noisy in (
    ("train", True), ("selection", True), ("validation", False)
  ):  # fmt: skip
    true, noisy = (
      _variant("demo", 20, split),
      _variant("demo-noise_0.3", 20, split),
    )
    for one, other in zip(true, noisy, strict=True):
      assert one["sprites"] == other["sprites"]
      assert (one["annotations"] == other["annotations"]) != is_noisy
      texts = [sorted(c["text"] for c in v["captions"]) for v in (one, other)]
      assert texts[0] == texts[1]
      for a, b in zip(one["annotations"], other["annotations"], strict=True):
        start, end = a["segment"]
        shift = np.abs(np.subtract(a["segment"], b["segment"]))
        assert (shift <= 0.3 * (end - start) + 1e-9).all()
        assert a["label"] == b["label"]
        assert 0 <= b["segment"][0] < b["segment"][1] <= other["duration"]
        assert b["segment"] in [c["segment"] for c in other["captions"]]


def test_the_pixels_of_noisy_labels_are_the_same():
  made = [
    scene.make_scene(0, "train", index=3, config=sizes.get_config(name))
    for name in ("demo", "demo-noise_0.3")
  ]
  np.testing.assert_array_equal(scene.draw(made[0]), scene.draw(made[1]))


def test_a_vague_caption_is_true_and_of_training_alone():
  config = sizes.get_config("demo-ambiguity_1")
  for one in _scenes("train", 60, config):
    spoken = {tuple(c["segment"]): c["text"] for c in one.captions}
    for action in one.actions:
      text = spoken[action.start / one.fps, action.end / one.fps]
      subject = next(s for s in vague.SUBJECTS if text.startswith(f"{s} "))
      words = text.removeprefix(f"{subject} ")
      if words == vague.CLASS_WORDS[action.verb]:
        continue
      names = vague.GROUPS[vague.group_of(action.verb)][1]
      assert any(words.startswith(n.partition("{")[0]) for n in names), text
      if action.verb in captions.TRAVELLING:
        path = one.poses[action.actor, action.start : action.end, :2]
        way = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
        x, y = path[-1] - path[0]
        assert (x, y) @ np.array(way[words.split()[-1]]) >= max(
          abs(x), abs(y)
        ) - 1e-9
  for split in ("selection", "validation"):
    assert _variant("demo-ambiguity_1", 8, split) == _variant("demo", 8, split)


def test_every_class_has_vague_words():
  grouped = [verb for members, _ in vague.GROUPS.values() for verb in members]
  assert (
    sorted(grouped) == sorted(verbs.CLASS_NAMES) == sorted(vague.CLASS_WORDS)
  )


def test_more_ambiguity_keeps_the_captions_that_are_vague():
  def vague_ones(name):
    return {
      (v["id"], str(c))
      for v, plain in zip(_variant(name), _variant("demo"), strict=True)
      for c in v["captions"]
      if c not in plain["captions"]
    }

  some, more = (
    vague_ones("demo-ambiguity_0.3"),
    vague_ones("demo-ambiguity_0.6"),
  )
  assert some < more
  total = sum(len(v["annotations"]) for v in _variant("demo"))
  assert len(some) / total == pytest.approx(0.3, abs=0.08)
  assert len(more) / total == pytest.approx(0.6, abs=0.08)


def test_near_misses_are_background_that_moves():
  name = "demo-near_misses_1"
  usual, others = (
    _scenes("train", 60, sizes.get_config(n)) for n in ("demo", name)
  )
  kinds, per_event = set(), []
  for one, other in zip(usual, others, strict=True):
    with_near, plain = scene.annotate(other), scene.annotate(one)
    assert with_near["annotations"] == plain["annotations"]
    assert with_near["background"] == plain["background"]
    assert not one.near_misses and "near_misses" not in plain
    still = np.ones(one.poses.shape[:2], bool)
    for near in other.near_misses:
      kinds.add(near.kind)
      assert near.motion.verb in verbs.CLASS_SPLITS["base"]
      assert not any(
        a.start < near.end and a.end > near.start for a in other.actions
      )
      span = slice(near.start, near.end)
      if near.kind == "bystander":
        path = other.bystander_poses[near.actor, span]
      else:
        still[near.actor, span] = False
        path = other.poses[near.actor, span] - one.poses[near.actor, span]
        assert np.abs(path[-1]).max() < 0.35 * np.abs(path).max()
      assert np.ptp(path, axis=0).max() > 0.05
    np.testing.assert_array_equal(one.poses[still], other.poses[still])
    per_event.append(len(other.near_misses))
  assert kinds == set(near_misses.KINDS)
  assert 2 < np.mean(per_event) < 5
  assert other.bystanders[0].colour not in sprites.COLOURS


def test_a_near_miss_of_half_the_size_is_half_as_far():
  poses = np.tile([32.0, 32.0, 0.0, 1.0, 0.0, 1.0], (1, 40, 1))
  motion = verbs.draw_motion(
    np.random.default_rng(0), "orbits", duration_sec=3.0
  )
  reach = {}
  for kind in ("small", "half"):
    moved = poses.copy()
    near = near_misses.NearMiss(kind, 0, 4, 36, motion)
    near_misses.perform(moved, near, fps=8.0)
    reach[kind] = np.hypot(*(moved[0, :, :2] - 32.0).T).max()
    np.testing.assert_array_equal(moved[0, :4], poses[0, :4])
    np.testing.assert_array_equal(moved[0, 36:], poses[0, 36:])
  assert reach["half"] == pytest.approx(2 * motion.amplitude, rel=0.05)
  assert reach["small"] == pytest.approx(reach["half"] / 2, rel=0.05)


def test_background_captions_of_near_misses_are_true():
  texts = {
    near_kind: [
      captions.caption_event(
        np.random.default_rng(i),
        choreography.Event("rest", 0, 20),
        np.zeros((2, 20, 6)),
        way=(1.0, 0.0), ground="cloudy", split="train", near_kinds={near_kind},
      )
      for i in range(8)
    ]
    for near_kind in ("half", "bystander")
  }  # fmt: skip
  assert all("grey" in text for text in texts["bystander"])
  for text in texts["half"]:
    assert not any(word in text for word in ("rest", "still", "nothing"))


def test_what_a_variant_adds_leaves_the_rest_as_it_was():
  plain, both = (
    scene.make_scene(0, "train", index=3, config=sizes.get_config(name))
    for name in ("demo", "demo-near_misses_0-ambiguity_1")
  )
  np.testing.assert_array_equal(scene.draw(plain), scene.draw(both))
  assert plain.captions != both.captions
  near = scene.make_scene(
    0, "train", index=3, config=sizes.get_config("demo-near_misses_1")
  )
  assert near.bystanders
  frames = scene.draw(near), scene.draw(plain)
  assert (frames[0] != frames[1]).any()
  assert near.textures == plain.textures
  # These texts were written before the variants were thought of.
  assert [c["text"] for c in plain_captions()] == [
    "nothing happens",
    "a yellow square moves in a straight line up",
    "at the top, a red circle tilts one way and the other",
    "before a striped backdrop, the small red circle slides down",
    "the sprites drift slowly",
    "before a striped backdrop, the yellow square wobbles",
    "the red sprite drops again and again while a square acts too",
  ]


def plain_captions():
  config = sizes.get_config("demo")
  return scene.make_scene(0, "train", index=0, config=config).captions


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("huge", "no size 'huge'"),
    ("demo-ambiguity_1.5", "ambiguity must be a number from 0.0 to 1.0"),
    ("demo-near_misses", "no parameter 'near'"),
    ("demo-colour_2", "no parameter 'colour'"),
    ("demo-gaps", "from 0.1 to 10.0, got ''"),
    ("demo-gaps_nan", "got 'nan'"),
    ("demo-classes_40", "from 2 to 22"),
  ],
)
def test_wrong_variants(name, message):
  with pytest.raises(ValueError, match=message):
    sizes.get_config(name)
