"""Defines named detection protocols: all settings that affect a score."""

import dataclasses
import math

# The ActivityNet and ActionFormer evaluators divide an interval, which gives
# one step less than 0.9; an IoU of 0.9 is then a hit.
_ACTIVITYNET = (
  0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95,
)  # fmt: skip
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A protocol that scores predictions at each threshold.

  Rules for equal scores: "input_order" keeps the order of the file and is
  deterministic; "reversed_numpy_sort" is that of the public Python evaluators,
  which depends on NumPy's unstable sort. Of ground truths of equal IoU, the
  last in file order counts.
  """

  name: str
  thresholds: tuple[float, ...]  # temporal IoU, ascending
  subset: str | None  # scored split; None: all videos
  task: str = "detection"  # or "proposals"
  # True: area under the precision envelope; False: mean precision at hits.
  interpolated: bool = True
  thumos_kit: bool = False  # rules of thumos_kit.py
  # IoU of two segments of zero length: math.inf matches, 0 does not.
  empty_pair: float = 0.0
  drop_degenerate: bool = True  # drops empty and repeated ground truth
  duplicate_tolerance_sec: float = 1e-3
  ambiguous_label: str | None = None  # label of regions that are not scored
  label_field: str = "label"
  recall_at: tuple[int, ...] = ()  # the k of Recall@kx, or of AR@k
  top_k: int | None = None  # best predictions used per video; None: all
  tie_rule: str = "input_order"


def _named(*protocols: Protocol) -> dict[str, Protocol]:
  named = {protocol.name: protocol for protocol in protocols}
  if len(named) < len(protocols):
    names = [protocol.name for protocol in protocols]
    twice = sorted({name for name in names if names.count(name) > 1})
    raise ValueError(f"duplicate protocols: {', '.join(twice)}")
  return named


# The official evaluator keeps every annotation; its 0 / 0 is a hit at every
# threshold for an empty prediction and an empty annotation.
_OFFICIAL_ACTIVITYNET = {"drop_degenerate": False, "empty_pair": math.inf}

PROTOCOLS: dict[str, Protocol] = _named(
  Protocol("activitynet", _ACTIVITYNET, "validation", **_OFFICIAL_ACTIVITYNET),
  # OpenTAD's rules; the caller supplies its block list.
  Protocol("activitynet_opentad", _ACTIVITYNET, "validation"),
  Protocol(
    "activitynet_proposals",
    _ACTIVITYNET,
    "validation",
    task="proposals",
    recall_at=(1, 5, 10, 100),
    **_OFFICIAL_ACTIVITYNET,
  ),
  Protocol(
    "thumos14",
    (0.3, 0.39999999999999997, 0.5, 0.6, 0.7),
    "test",
    ambiguous_label="Ambiguous",
  ),
  Protocol(
    "thumos14_official",
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "test",
    interpolated=False,
    thumos_kit=True,
    drop_degenerate=False,
    ambiguous_label="Ambiguous",
  ),
  Protocol("hacs", _ACTIVITYNET, "validation"),
  Protocol("fineaction", _ACTIVITYNET, "validation"),
  Protocol("multithumos", _TENTHS, "test"),
  Protocol("charades", _TENTHS, "test"),
  Protocol("ego4d_mq", _TENTHS[:5], "validation", recall_at=(1, 5)),
  *(
    Protocol(
      name,
      _TENTHS[:5],
      "validation",
      label_field=label_field,
      drop_degenerate=False,
    )
    for name, label_field in (
      ("epic_kitchens", "action"),
      ("epic_kitchens_action", "action"),
      ("epic_kitchens_verb", "verb"),
      ("epic_kitchens_noun", "noun"),
      ("epic_sounds", "class"),
    )
  ),
  Protocol("motion_sprites", _TENTHS[2:7], "validation"),
  Protocol("hapt", _TENTHS[2:7], "validation"),
)
