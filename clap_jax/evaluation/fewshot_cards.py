"""Makes evaluation cards of few-shot results."""

from collections.abc import Iterator

from clap_jax.data import class_splits, training_history
from clap_jax.data import episodes as episodes_lib
from clap_jax.metrics import card

REPORTED_EPISODES = 1000  # fewer must not be reported
METHODS = {
  "prototypes": "prototypes adapted on the support, attention over the query; "
  "trained on base-class episodes",
  "text_assisted": "as prototypes, with cosines of the class name through the "
  "text tower; trained on base-class episodes",
  "nearest_prototype": "baseline without training: nearest mean of frozen "
  "features",
  "text_only": "zero-shot baseline: class name through the text tower, the "
  "support unused",
}


def check_seen(
  extraction: dict, split: class_splits.ClassSplit, *, allow: bool
) -> str:
  """Checks which hidden classes the encoder has seen, for the card.

  Raises:
    ValueError: it has seen novel classes, or its history is unknown, unless
      `allow` is on.
  """
  training = extraction.get("training", {})
  problem = training_history.problem(training, split)
  if problem is None:
    seen = sorted(set(training["seen_classes"]) & set(split.validation))
    if not seen:
      return "the encoder was trained on no validation and no novel class"
    return (
      f"the encoder was trained on the validation classes {seen}, on no novel "
      "class"
    )
  if allow:
    return f"allow_seen_classes is on: {problem}"
  raise ValueError(
    f"{problem[0].upper()}{problem[1:]}: few-shot numbers would be of classes "
    "seen before. Pre-train with sampling.class_split="
    f"{split.name!r} (in pretrain_sprites.py: `base_only`), the run it starts "
    "from too, and extract again; or set allow_seen_classes=True, which the "
    "card then states."
  )


def facts_of(
  drawn: episodes_lib.EpisodeSet, *, without_features: list[str]
) -> dict:
  """Returns the fields of a card that follow from the episodes.

  Args:
    without_features: videos of the classes that could not be queries.
  """
  queries = {episode.query for run in drawn.runs for episode in run}
  missing = [*drawn.left_out, *without_features]
  num_runs = len(drawn.runs)
  return {
    "split_hash": card.split_hash(queries),
    "num_evaluated": len(queries),
    "num_missing": len(missing),
    "missing": missing[:20],
    "episodes_sha256": drawn.sha256,
    "episodes_seed": drawn.facts["seed"],
    "num_episodes": drawn.num_episodes,
    "num_runs": num_runs,
    "interval_rule": f"95 %, Student's t over {num_runs} runs: how the mean "
    "varies with the drawn support, for these videos and this model",
  }


def notes(
  drawn: episodes_lib.EpisodeSet, split: class_splits.ClassSplit, *, seen: str
) -> Iterator[str]:
  """Yields further notes of the card; `seen` is from `check_seen`."""
  yield (
    f"class split {split.name}: {len(split.base)} base, "
    f"{len(split.validation)} validation, {len(split.novel)} novel classes; "
    "queries and support are of novel classes"
  )
  yield seen
  if drawn.facts["legacy_qat"]:
    yield (
      "LEGACY PROTOCOL (legacy_qat), comparable with numbers of that "
      "protocol only: support drawn with replacement and possibly the query "
      "itself, the query's own class on every prediction, only videos that "
      "happened to be drawn; its external classifier, which was trained on "
      "the novel classes, is left out"
    )
  else:
    yield (
      "every query exactly once per run, support disjoint from the query by "
      "video, the query's label unused after sampling"
    )
  if drawn.num_episodes < REPORTED_EPISODES:
    yield (
      f"{drawn.num_episodes} episodes, fewer than {REPORTED_EPISODES}: not "
      "for reporting"
    )
