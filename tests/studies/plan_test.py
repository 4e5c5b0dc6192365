"""Plans of studies: what is compared, and what the keys depend on."""

import dataclasses

import pytest

from clap_jax import config as config_lib
from clap_jax.commands import configs
from clap_jax.data import class_splits
from clap_jax.studies import fingerprints, planning, settings
from clap_jax.training import workdir
from configs.parts import pretraining

CLAIM = "configs/study_claim.py"


def read(name):
  return configs.read(name, [])


def study(argument, **changes):
  config = config_lib.resolve(settings.StudyConfig, read(f"{CLAIM}:{argument}"))
  return dataclasses.replace(config, **changes)


def plan(argument, **changes):
  config = study(argument, **changes)
  return planning.artifacts_of(planning.plan(config, read=read))


SEEDS = (10, 11)


@pytest.fixture(scope="module")
def claim():
  return plan("demo", seeds=SEEDS)


def of(artifacts, kind, row, seed=10):
  (artifact,) = [
    p for p in artifacts if (p.kind, p.row, p.seed) == (kind, row, seed)
  ]
  return artifact


def test_every_encoder_gets_as_many_heads_of_each_task(claim):
  for task in ("localization", "grounding", "fewshot"):
    heads = [p for p in claim if (p.kind, p.row, p.seed) == (task, "clap", 11)]
    assert [p.head_seed for p in heads] == [0, 1, 2]
    assert [p.config["loop"]["seed"] for p in heads] == [11, 1011, 2011]
    configs = [p.config | {"loop": None} for p in heads]
    assert configs.count(configs[0]) == 3
    assert len({p.label for p in heads}) == 3
  one = plan("demo", seeds=SEEDS, head_seeds=1)
  assert {p.name for p in one} < {p.name for p in claim}
  assert len([p for p in claim if p.kind == "fewshot"]) == 3 * len(
    [p for p in one if p.kind == "fewshot"]
  )


def test_the_claims_are_named_in_the_config():
  config = study("demo")
  settings.check_names(config)
  assert [str(claim) for claim in config.claims] == [
    f"clap > {row}, {what}"
    for row in ("tac", "tsp")
    for what in (
      "localization, average mAP",
      "fewshot, 5-way 1-shot average mAP, prototypes",
      "fewshot, 5-way 5-shot average mAP, prototypes",
      "grounding, R@1 IoU 0.5",
    )
  ]
  assert config.min_seeds == 8
  assert len(config.seeds) >= 8
  # Of some rows and tasks, the family stays whole.
  cut = settings.with_tasks(
    settings.with_rows(config, ("clap", "tac")), ("localization",)
  )
  assert cut.claims == config.claims


@pytest.mark.parametrize(
  ("changes", "message"),
  [({"better": "clasp"}, "row .*clasp"), ({"task": "jumps"}, "task .*jumps")],
)
def test_a_claim_that_no_row_or_task_can_answer(changes, message):
  config = study("demo")
  wrong = dataclasses.replace(config.claims[0], **changes)
  with pytest.raises(ValueError, match=message):
    settings.check_names(dataclasses.replace(config, claims=(wrong,)))


def test_choices_are_made_on_other_seeds_videos_and_classes(claim):
  config = study("demo,selection")
  assert not {*config.seeds} & {*study("demo").seeds}
  assert config.claims == ()
  for artifact in planning.artifacts_of(planning.plan(config, read=read)):
    if artifact.kind not in ("data", "start", "features"):
      assert artifact.config["data"]["eval_split"] == "selection"
    if artifact.kind in ("start", "pretrain"):
      assert artifact.config["sampling"]["class_split"] == "motion_sprites"
    if artifact.kind == "fewshot":
      assert artifact.config["class_split"] == "motion_sprites_choosing"
  report, choosing = map(
    class_splits.class_split, ("motion_sprites", "motion_sprites_choosing")
  )
  assert choosing.novel == report.validation
  assert not {*choosing.base, *choosing.hidden} & {*report.novel}
  # A validation number of a report's seed is made from the same start.
  assert of(plan("demo", seeds=SEEDS, split="selection"), "start", "").name == (
    of(claim, "start", "").name
  )


def test_eleven_rows_share_tower_data_start_and_budget(claim):
  pretrained = [p for p in claim if p.kind == "pretrain" and p.seed == 10]
  assert [p.row for p in pretrained] == [
    "random",
    "tac",
    "tsp",
    "clip",
    "clap",
    "tsp_clip",
    "clap_no_masks",
    "clap_no_background",
    "clap_no_region",
    "clap_no_captions",
    "clap_frozen_tower",
  ]
  for key in ("model", "clip", "data", "augment"):
    assert len({str(p.config[key]) for p in pretrained}) == 1, key
  trained = pretrained[1:]
  start = of(claim, "start", "").name
  assert {p.inputs["start"] for p in trained} == {start}
  assert {p.config["sampling"]["stream"] for p in trained} == {1}
  assert {p.config["loop"]["steps"] for p in trained} == {400}
  assert {p.config["loop"]["seed"] for p in pretrained} == {10}
  random = pretrained[0]
  assert random.config["loop"]["steps"] == 0
  assert "start" not in random.inputs


def test_each_ablation_changes_one_thing(claim):
  clap = workdir.flattened(of(claim, "pretrain", "clap").config)

  def changes(row):
    other = workdir.flattened(of(claim, "pretrain", row).config)
    return {
      key: other.get(key)
      for key in {*clap, *other} - {"encoder"}
      if clap.get(key) != other.get(key)
    }

  assert changes("clap_no_masks") == {"loss.preset": "unmasked"}
  assert changes("tsp_clip") == {
    "loss.preset": "unmasked",
    "sampling.background_text": False,
  }
  assert changes("clap_no_background") == {
    "sampling.action_only": True,
    "loss.region_weight": 0.0,
  }
  assert changes("clap_no_region") == {"loss.region_weight": 0.0}
  assert changes("clap_no_captions") == {
    "loss.preset": "labels",
    "sampling.text_source": "labels",
  }
  assert changes("clap_frozen_tower") == {
    "optimizer.groups": [["/video_tower/", 0.0]]
  }


def test_a_row_that_takes_nothing_from_clap_is_left_out(monkeypatch):
  clap = pretraining.ENCODERS["clap"] | {"loss.region_weight": 0.0}
  monkeypatch.setitem(pretraining.ENCODERS, "clap", clap)
  names = [row.name for row in study("demo").rows]
  assert "clap_no_region" not in names
  assert "clap_no_background" in names


def test_novel_classes_are_hidden_from_every_stage(claim):
  for artifact in claim:
    if artifact.kind in ("start", "pretrain"):
      assert artifact.config["sampling"]["class_split"] == "motion_sprites"
    if artifact.kind == "fewshot":
      assert artifact.config["allow_seen_classes"] is False
      assert artifact.config["evaluation"]["ways"] == [5]
  assert not [p for p in plan("demo,all_classes") if p.kind == "fewshot"]


def test_the_heads_are_the_same_for_all_rows(claim):
  for task in ("localization", "grounding", "fewshot"):
    heads = [p for p in claim if (p.kind, p.seed, p.head_seed) == (task, 11, 1)]
    assert len(heads) == 11
    assert len({str(p.config) for p in heads}) == 1
    assert len({p.key for p in heads}) == 11  # by the features they read


def test_seeds_end_whole():
  steps = planning.plan(study("demo", seeds=(3, 1)), read=read)
  order = [
    artifact.seed for step in steps[1:] for job in step
    for artifact in job.artifacts
  ]  # fmt: skip
  assert order == sorted(order, reverse=True)


def test_keys_follow_what_is_read(claim):
  assert [p.key for p in plan("demo", seeds=SEEDS)] == [p.key for p in claim]
  other = plan("demo", seeds=(10,), vocab_size=300)
  by_name = {p.name for p in claim}
  assert not [p for p in other if p.name in by_name]
  fewer = plan("demo", seeds=(10,))
  assert {p.name for p in fewer} < by_name
  slower = plan("demo", seeds=(10,), stride_sec=1.0)
  shared = {p.kind for p in slower if p.name in by_name}
  assert shared == {"data", "start", "pretrain"}


def test_a_key_covers_code_and_tables_but_not_comments(tmp_path, monkeypatch):
  folder = tmp_path / "clap_jax"
  folder.mkdir()
  (folder / "__init__.py").touch()
  first, second = folder / "first.py", folder / "second.py"
  monkeypatch.setattr(
    fingerprints,
    "_path",
    {"clap_jax.first": first, "clap_jax.second": second}.get,
  )
  caches = (fingerprints.code_hash, fingerprints._source,
            fingerprints._imports, fingerprints._tree)  # fmt: skip

  def key(text, other="X = 1\n"):
    first.write_text(f"from clap_jax import second\n{text}")
    second.write_text(other)
    for cache in caches:
      cache.cache_clear()
    return fingerprints.code_hash("clap_jax.first")

  code = 'def f(x):\n  """Says."""\n  return x + second.X\n'
  before = key(code)
  assert key('# why\ndef f(x):\n  """Tells."""\n\n  return x + second.X') == (
    before
  )
  assert key(code.replace("+", "-")) != before
  assert key(code, other="X = 2\n") != before
  (folder / "splits").mkdir()
  (folder / "splits" / "a.json").write_text("[1]")
  with_table = key(code)
  assert with_table != before
  (folder / "splits" / "a.json").write_text("[2]")
  assert key(code) not in (before, with_table)
  for cache in caches:
    cache.cache_clear()


def test_the_hash_of_a_stage_follows_its_imports():
  names = fingerprints._closure("clap_jax.trainers.localization")
  assert "clap_jax.training.step" in names
  assert "clap_jax.losses.localization" in names
  assert "clap_jax.trainers.pretrain" not in names
  assert "tfds_builders.motion_sprites.verbs" in fingerprints._closure(
    "tfds_builders.motion_sprites.render"
  )


def test_properties_vary_one_thing_at_a_time():
  config = study("demo,properties")
  assert config.datasets == (
    "motion_sprites/demo",
    "motion_sprites/demo-ambiguity_0.3",
    "motion_sprites/demo-ambiguity_0.6",
    "motion_sprites/demo-ambiguity_0.9",
    "motion_sprites/demo-gaps_0.25",
    "motion_sprites/demo-gaps_2.5",
    "motion_sprites/demo-classes_6",
    "motion_sprites/demo-classes_12",
    "motion_sprites/demo-distractors_0",
    "motion_sprites/demo-distractors_2",
    "motion_sprites/demo-noise_0.1",
    "motion_sprites/demo-noise_0.3",
    "motion_sprites/demo-near_misses_0.5",
    "motion_sprites/demo-near_misses_1",
  )
  artifacts = planning.artifacts_of(planning.plan(config, read=read))
  rows = [p for p in artifacts if p.kind == "localization" and p.seed == 12]
  measured = {}
  for artifact in rows:
    measured.setdefault(artifact.dataset.partition("-")[2], set()).add(
      artifact.row
    )
  assert measured.pop("") == {"tac", "tsp", "clap", "clap_no_masks"}
  for variant, of_rows in measured.items():
    assert of_rows == {"tac", "clap"} | {
      "ambiguity": {"clap_no_masks"}, "near_misses": {"tsp"}
    }.get(variant.rpartition("_")[0], set()), variant  # fmt: skip
  assert len(rows) == (4 + 3 * 3 + 8 * 2 + 2 * 3) * config.head_seeds
  assert {p.config["data"]["dataset"] for p in rows} == set(config.datasets)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seeds": ()}, "at least one"),
    ({"seeds": (1, 1)}, "duplicates"),
    ({"reference": "vlad"}, "choose from random"),
    ({"claims": 2 * study("tiny").claims}, "claims has duplicates"),
    ({"overrides": {"juggling": ()}}, "juggling"),
  ],
)
def test_wrong_studies(changes, message):
  with pytest.raises(ValueError, match=message):
    study("tiny", **changes)


def test_datasets_that_no_row_is_measured_on_are_not_made():
  config = settings.with_rows(study("demo,properties"), ("tsp",))
  assert config.datasets == (
    "motion_sprites/demo",
    "motion_sprites/demo-near_misses_0.5",
    "motion_sprites/demo-near_misses_1",
  )


def test_a_property_of_unknown_rows():
  config = study("tiny,properties")
  wrong = {"gaps": dataclasses.replace(
    config.properties["background"], rows=("vlad",)
  )}  # fmt: skip
  with pytest.raises(ValueError, match=r"properties.gaps.rows: got \['vlad'\]"):
    settings.check_names(dataclasses.replace(config, properties=wrong))


def test_a_row_that_overrides_nothing_is_an_error():
  rows = (settings.RowConfig("clap", "", "clap", (("loss.presets", "x"),)),)
  with pytest.raises(ValueError, match=r"no key 'loss.presets'"):
    plan("tiny", rows=rows, reference="")
  with pytest.raises(ValueError, match=r"\['vlad'\]; choose from random"):
    settings.with_rows(study("tiny"), ("vlad",))
