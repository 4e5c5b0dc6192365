"""How often a batch holds another sentence that says what a clip's own says.

  python -m tests.benchmarks.caption_ambiguity --json OUT [--minilm WEIGHTS]

Sets the `ambiguity` of motion_sprites by a measurement on the sentences of
ActivityNet-Captions in ../shared/data, before any row is trained on it. For a
clip with its sentence in a batch of N random sentences of other videos, the
figure is the probability that one or more of the others are near-duplicates of
its own, averaged over the sentences: 1 - (1 - p)^(N - 1) with p the share of
the other sentences that are.

ActivityNet-Captions: a near-duplicate is a sentence that is equal once case,
spaces and the full stop are ignored ("equal"), or one whose embedding is at
least as close as those of two annotators who describe the same moment: the
annotators of val_1 and val_2 worked apart, so their sentences about segments of
one video with tIoU >= 0.7 are true of one another, and the median of their
cosines is the threshold; the quartiles are printed beside it. WEIGHTS is a
folder that `clap import all-MiniLM-L6-v2/ --source bert --max_text_length 64`
has written; without it, the embedding is TF-IDF of words.

motion_sprites: meanings are read off the generator, for its sentences differ by
single words ("red" for "blue") that an embedding hardly sees. "Same meaning"
counts sentences that say the same: the same class and actor, the same class and
no actor, or the same group of classes and way. It is what an embedding counts
in real sentences, and its match is the measured ambiguity. "True of the clip"
counts all sentences that are true, also those that say less than the clip's
own; of real sentences nobody has counted these.
"""

import pathlib
import re

import numpy as np

from clap_jax.data import clips
from clap_jax.evaluation import text_models
from clap_jax.metrics import overlap
from clap_jax.storage import untrusted
from tests.benchmarks import running
from tfds_builders.motion_sprites import scene, sizes, vague

CAPTIONS = pathlib.Path("../shared/data/activitynet_captions")
BATCH_SIZES = (64, 256, 1024)
MATCHED_BATCH = 64  # of the demo's pre-training, whose ambiguity is set
QUANTILES = (0.25, 0.5, 0.75)
MIN_TIOU = 0.7
NUM_SENTENCES, QUICK_SENTENCES = 3_000, 400
AMBIGUITY = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NUM_VIDEOS, QUICK_VIDEOS = 320, 40


def probability(shares: np.ndarray, batch_size: int) -> float:
  """Of one or more near-duplicates among a batch's other sentences."""
  return float(np.mean(1.0 - (1.0 - shares) ** (batch_size - 1)))


def shares_of(
  same: np.ndarray, groups: np.ndarray, *, rows: slice = slice(None)
) -> np.ndarray:
  """Per row, the share of the sentences of other groups that `same` marks."""
  others = groups[rows, None] != groups[None, :]
  return (same & others).sum(1) / others.sum(1)


def read_captions(path: pathlib.Path) -> dict[str, list[tuple]]:
  """Video -> (start_sec, end_sec, sentence) of ActivityNet-Captions."""
  return {
    video: [
      (*span, clips.normalize_text(text))
      for span, text in zip(
        entry["timestamps"], entry["sentences"], strict=True
      )
    ]
    for video, entry in untrusted.read_json(path).items()
  }


def same_moment_pairs(one: dict, other: dict) -> list[tuple[str, str]]:
  """Sentences of two annotators about segments of tIoU >= MIN_TIOU."""
  pairs = []
  for video in sorted(one.keys() & other):
    spans = [
      np.array([item[:2] for item in found[video]], np.float64)
      for found in (one, other)
    ]
    first, second = spans[0][:, None], spans[1][None, :]
    tiou = overlap.iou(first, second, empty_pair=0.0)
    pairs += [
      (one[video][i][2], other[video][j][2])
      for i, j in np.argwhere(tiou >= MIN_TIOU)
    ]
  return pairs


def tfidf(corpus: list[str]):
  """Texts -> unit vectors (n, words) of TF-IDF with the corpus's weights."""
  split = [re.findall(r"[a-z0-9']+", text) for text in corpus]
  counts: dict[str, int] = {}
  for words in split:
    for word in set(words):
      counts[word] = counts.get(word, 0) + 1
  index = {word: i for i, word in enumerate(sorted(counts))}
  weight = np.log(len(corpus) / np.array([counts[word] for word in index]))

  def embed(texts):
    rows = np.zeros((len(texts), len(index)), np.float32)
    for row, text in zip(rows, texts, strict=True):
      for word in re.findall(r"[a-z0-9']+", text):
        if word in index:
          row[index[word]] += weight[index[word]]
    return rows / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True))

  return embed


def real_shares(folder: pathlib.Path, *, count: int, minilm, rng) -> dict:
  """Criterion -> share of near-duplicates of each sampled sentence."""
  train = read_captions(folder / "train.json")
  flat = [(v, text) for v, items in train.items() for *_, text in items]
  chosen = rng.choice(len(flat), min(count, len(flat)), replace=False)
  texts = [flat[i][1] for i in chosen]
  videos = np.unique([flat[i][0] for i in chosen], return_inverse=True)[1]
  ids = np.unique(texts, return_inverse=True)[1]
  found = {"equal": shares_of(ids[:, None] == ids[None, :], videos)}
  embed = text_models.text_vectors(minilm) if minilm else tfidf(texts)
  pairs = same_moment_pairs(
    read_captions(folder / "val_1.json"), read_captions(folder / "val_2.json")
  )
  picked = rng.choice(len(pairs), min(count // 2, len(pairs)), replace=False)
  ones, others = (embed([pairs[i][side] for i in picked]) for side in (0, 1))
  limits = np.quantile((ones * others).sum(1), QUANTILES)
  vectors = embed(texts)
  cosine = vectors @ vectors.T
  for quantile, limit in zip(QUANTILES, limits, strict=True):
    name = f"cosine >= {limit:.3f} ({quantile:.0%} of pairs below)"
    found[name] = shares_of(cosine >= limit, videos)
  return found


def meanings(scenes) -> list[dict]:
  """Of every action: what happens in its clip, and what its caption says."""
  found = []
  for number, one in enumerate(scenes):
    spoken = {tuple(c["segment"]): c["text"] for c in one.captions}
    for action in one.actions:
      look = one.looks[action.actor]
      text = spoken[action.start / one.fps, action.end / one.fps]
      subject = next((s for s in vague.SUBJECTS if text.startswith(s)), "")
      words = text.removeprefix(subject).strip()
      precise = (action.verb, look.colour, look.shape)
      way = vague.way_of(action, one.poses)
      group = (vague.group_of(action.verb), way)
      said = ("precise", *precise)
      if words == vague.CLASS_WORDS[action.verb]:
        said = ("class", action.verb)
      elif words in vague.group_phrases(action, one.poses):
        said = ("group", *group)
      true = {
        ("precise", *precise),
        ("class", action.verb),
        ("group", *group),
      }
      found.append({"video": number, "said": said, "true": true})
  return found


def sprites_shares(ambiguity: float, *, num_videos: int) -> dict:
  """Criterion -> share of the other captions that meet it, by caption."""
  name = f"demo-ambiguity_{ambiguity:g}"
  config = sizes.get_config(name)
  found = meanings(
    scene.make_scene(0, "train", index=index, config=config)
    for index in range(num_videos)
  )
  said = sorted({item["said"] for item in found})
  index = {key: i for i, key in enumerate(said)}
  ids = np.array([index[item["said"]] for item in found])
  holds = np.zeros((len(found), len(said)), bool)
  for row, item in zip(holds, found, strict=True):
    row[[index[key] for key in item["true"] if key in index]] = True
  videos = np.array([item["video"] for item in found])
  return {
    "same meaning": shares_of(ids[:, None] == ids[None, :], videos),
    "true of the clip": shares_of(holds[:, ids], videos),
  }


def matching(ambiguity, values, target: float) -> float | None:
  """The ambiguity at which rising values reach the target."""
  if not values[0] <= target <= values[-1]:
    return None
  return float(np.interp(target, values, ambiguity))


def measure(*, quick: bool, captions: pathlib.Path, minilm) -> list[dict]:
  rng = np.random.default_rng(0)
  count = QUICK_SENTENCES if quick else NUM_SENTENCES
  real = real_shares(captions, count=count, minilm=minilm, rng=rng)
  embedding = "MiniLM" if minilm else "TF-IDF"
  rows = []
  for criterion, shares in real.items():
    rows += [
      running.row(
        f"ActivityNet-Captions, {criterion}, batch of {size}",
        probability(shares, size),
        "probability",
        note=f"{embedding}, share {shares.mean():.2e} of pairs",
      )
      for size in BATCH_SIZES
    ]
  num_videos = QUICK_VIDEOS if quick else NUM_VIDEOS
  by_ambiguity = [
    sprites_shares(value, num_videos=num_videos) for value in AMBIGUITY
  ]
  for criterion in by_ambiguity[0]:
    at_size = {
      size: [probability(found[criterion], size) for found in by_ambiguity]
      for size in BATCH_SIZES
    }
    rows += [
      running.row(
        f"motion_sprites, {criterion}, ambiguity {value:g}, batch of {size}",
        chance,
        "probability",
      )
      for size in BATCH_SIZES
      for value, chance in zip(AMBIGUITY, at_size[size], strict=True)
    ]
    for name, shares in real.items():
      for size in BATCH_SIZES:
        target = probability(shares, size)
        rows.append(
          running.row(
            f"ambiguity whose {criterion!r} matches {name}",
            matching(AMBIGUITY, at_size[MATCHED_BATCH], target),
            "ambiguity",
            note=f"batch of {MATCHED_BATCH} as of {size} real, {target:.3f}",
          )
        )
  return rows


if __name__ == "__main__":
  running.main(
    measure,
    __doc__,
    options={
      "captions": {"type": pathlib.Path, "default": CAPTIONS},
      "minilm": {"default": None, "help": "folder of `clap import`"},
    },
  )
