"""Segments of whole videos, from a class list, free text or examples."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from clap_jax.data import container, features
from clap_jax.inference import encoder as encoder_lib
from clap_jax.inference import extract, support
from clap_jax.trainers import facts as facts_lib
from clap_jax.trainers import (
  fewshot,
  grounding,
  grounding_evaluation,
  localization,
  localizers,
  moment_search,
  open_vocabulary,
)
from clap_jax.training import checkpoint

MODEL_FILE = "model.json"


@dataclasses.dataclass(frozen=True)
class Model:
  """An encoder with the heads that were trained on its features."""

  encoder: encoder_lib.Encoder
  stride_sec: float
  localizer: tuple[localizers.FeatureTask, dict, dict] | None
  grounder: tuple[grounding.GroundingTask, dict, dict] | None
  matcher: tuple[fewshot.FewshotTask, dict, dict] | None = None

  @property
  def label_names(self) -> tuple[str, ...]:
    """Classes that are reported when none are asked for."""
    if self.localizer is None:
      return ()
    facts = self.localizer[1]
    return tuple(facts.get("class_names") or facts["label_names"])

  @property
  def takes_any_label(self) -> bool:
    """Whether classes are told by their names, trained or not."""
    return self.localizer is not None and "text_classes" in self.localizer[1]

  @functools.cached_property
  def class_texts(self) -> Callable:
    """Encoder.class_texts, kept by names: videos share their classes."""
    return functools.lru_cache(maxsize=1)(self.encoder.class_texts)

  # Kept with the model: a program made anew for each video is compiled anew.
  @functools.cached_property
  def detect(self) -> Callable:
    """The localizer's `detect`, compiled."""
    return jax.jit(self.localizer[0].detect)

  @functools.cached_property
  def search(self) -> moment_search.MomentSearch:
    """Answers queries by the grounder, compiled."""
    return moment_search.MomentSearch(self.grounder[0])


def load_model(directory: str | pathlib.Path) -> Model:
  """Loads DIR/model.json, which names the encoder and the heads.

  The workdir of a few-shot run is a model as well: its encoder is the one that
  made the features it was trained on.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a few-shot head was trained on another encoder's features.
  """
  directory = pathlib.Path(directory)
  path = directory / MODEL_FILE
  if not path.is_file() and (directory / fewshot.MODEL_FILE).is_file():
    return _load_fewshot_run(directory)
  if not path.is_file():
    raise FileNotFoundError(
      f"{directory} is no model: it has no {MODEL_FILE}. Expected the model "
      'directory of `clap demo`, or {"encoder": DIR, "stride_sec": S, '
      '"localization": DIR, "grounding": DIR, "fewshot": DIR} in that file, or '
      "the workdir of a few-shot run."
    )
  parts = facts_lib.read(directory, MODEL_FILE)
  model = Model(
    encoder=encoder_lib.load_encoder(directory / parts["encoder"]),
    stride_sec=parts["stride_sec"],
    localizer=_load_head(directory, parts.get("localization"), localization),
    grounder=_load_head(directory, parts.get("grounding"), grounding),
    matcher=_load_head(directory, parts.get("fewshot"), fewshot),
  )
  _check_matcher(model)
  return model


def _load_fewshot_run(workdir: pathlib.Path) -> Model:
  matcher = _load_head(workdir, ".", fewshot)
  facts = matcher[1]
  if not facts["encoder_directory"]:
    raise ValueError(
      f"{workdir / fewshot.MODEL_FILE} does not name its encoder; write a "
      f'{MODEL_FILE} with "encoder", "stride_sec" and "fewshot".'
    )
  model = Model(
    encoder=encoder_lib.load_encoder(facts["encoder_directory"]),
    stride_sec=facts["stride_sec"],
    localizer=None,
    grounder=None,
    matcher=matcher,
  )
  _check_matcher(model)
  return model


def _check_matcher(model: Model) -> None:
  """A head on features of another encoder would find nonsense."""
  if model.matcher is None:
    return
  facts, found = model.matcher[1], model.encoder.fingerprint
  if facts["encoder_parameters"] != found:
    raise ValueError(
      f"The few-shot head was trained on features of an encoder with the "
      f"parameters {facts['encoder_parameters']}, but "
      f"{model.encoder.directory} holds {found}; train the head on "
      "features of this encoder."
    )


def write_model(
  directory: str | pathlib.Path,
  *,
  encoder: str,
  stride_sec: float,
  localization_dir: str | None,
  grounding_dir: str | None,
  fewshot_dir: str | None = None,
) -> pathlib.Path:
  """Writes model.json; paths are relative to `directory`."""
  path = pathlib.Path(directory) / MODEL_FILE
  parts = {
    "encoder": encoder,
    "stride_sec": stride_sec,
    "localization": localization_dir,
    "grounding": grounding_dir,
  } | ({"fewshot": fewshot_dir} if fewshot_dir else {})
  facts_lib.write(path, parts)
  return path


def _load_head(directory, name, trainer):
  """(task, facts, parameters) of a head's workdir; None without one."""
  if not name:
    return None
  workdir = directory / name
  facts, task = facts_lib.load(workdir, trainer.MODEL_FILE, trainer.make_task)
  params, _ = checkpoint.restore_params(workdir, use_ema=facts["use_ema"])
  return task, facts, params


def predict(
  model: Model,
  videos: Sequence[str | pathlib.Path],
  *,
  labels: Sequence[str] | None = None,
  queries: Sequence[str] = (),
  support_dir: str | pathlib.Path | None = None,
  max_predictions: int = 20,
  on_progress: Callable[[int, int], None] | None = None,
) -> dict:
  """Predictions for local video files, in the shape the contract promises.

  Args:
    model: encoder and heads.
    videos: local files; one that fails is listed, the others go on.
    labels: classes to report; all that the localizer knows without. An
      open-vocabulary localizer takes any. Ignored when there are only
      queries or a support.
    queries: free texts, each answered with its own moments and, by the
      calibration that the grounder was stored with, a probability of absence.
    support_dir: examples of the classes to look for, see inference/support.py.
    max_predictions: best segments kept per video or query.
    on_progress: called with (videos done, videos in all).

  Returns:
    {"videos": [{"video", "duration_sec", "predictions": [...], "absent"}],
    "failed": [{"video", "reason"}]}. With queries a video has "absence" too,
    {query: {"probability", "absent"}}; "absent" says that all of them are. It
    is None without queries or for a grounder without calibration. With a
    support the document has "support" too, {"method", "shots"}: how it was
    matched, and the number of examples of each class.

  Raises:
    ValueError: if the model lacks the head asked for, labels are unknown or
      none, a query is empty, `max_predictions` is below 1, or the support
      folder is malformed.
    VideoError: if an example of the support cannot be decoded.
  """
  queries = tuple(dict.fromkeys(queries))  # asked twice, answered once
  _check_request(
    model,
    labels,
    queries,
    max_predictions,
    has_support=support_dir is not None,
  )
  examples = None
  if support_dir is not None:
    examples = support.SupportSet(
      model.encoder,
      support_dir,
      stride_sec=model.stride_sec,
      matcher=model.matcher,
    )
  found, failed = [], []
  for done, video in enumerate(videos):
    try:
      found.append(
        _predict_one(
          model,
          pathlib.Path(video),
          labels=labels,
          queries=queries,
          examples=examples,
          max_predictions=max_predictions,
        )
      )
    except (container.VideoError, OSError) as error:
      failed.append({"video": str(video), "reason": str(error)})
    if on_progress:
      on_progress(done + 1, len(videos))
  document = {"videos": found, "failed": failed}
  return document | ({"support": examples.facts} if examples else {})


def _check_request(
  model, labels, queries, max_predictions, *, has_support
) -> None:
  if max_predictions < 1:
    raise ValueError(f"max_predictions must be at least 1: {max_predictions}.")
  if not all(query.strip() for query in queries):
    raise ValueError("A query is empty; describe the moment in words.")
  if queries and model.grounder is None:
    raise ValueError("This model has no grounding head: it takes no --query.")
  if labels is None and (queries or has_support):
    return
  if model.localizer is None:
    raise ValueError("This model has no localization head; give a --query.")
  if labels is not None and not labels:
    raise ValueError(
      "The list of labels is empty; the model knows "
      f"{', '.join(model.label_names)}, one per line."
    )
  if model.takes_any_label:
    if not all(label.strip() for label in labels or ()):
      raise ValueError("A label is empty; name the action in words.")
    return
  unknown = sorted(set(labels or ()) - set(model.label_names))
  if unknown:
    raise ValueError(
      f"The model does not know the labels {unknown}. It knows "
      f"{', '.join(model.label_names)}. Ask for other actions with --query."
    )


def _predict_one(
  model, video: pathlib.Path, *, labels, queries, examples, max_predictions
) -> dict:
  duration_sec = container.probe(video).duration_sec
  clips = extract.stream_clips(
    model.encoder, video, stride_sec=model.stride_sec
  )
  grid = features.FeatureGrid(
    start_sec=0.0,
    stride_sec=model.stride_sec,
    clip_sec=model.encoder.clip.clip_sec,
  )
  sequence = extract.video_features(model.encoder, clips)
  result = {
    "video": str(video),
    "duration_sec": duration_sec,
    "predictions": [],
    "absent": None,
  }
  if labels is not None or not (queries or examples):
    result["predictions"] += _localize(
      model,
      sequence,
      grid=grid,
      duration_sec=duration_sec,
      labels=labels,
      max_predictions=max_predictions,
    )
  if examples:
    padded, mask = _padded(sequence, examples.max_length)
    result["predictions"] += [
      _entry(segment, score, grid, duration_sec) | {"label": label}
      for segment, score, label in examples.find(padded, mask)
    ][:max_predictions]
  if queries:
    moments, logits = _ground(
      model,
      sequence,
      grid=grid,
      duration_sec=duration_sec,
      queries=queries,
      max_predictions=max_predictions,
    )
    result["predictions"] += moments
    result |= _absence(model.grounder[1]["absence"], queries, logits)
  return result


def _localize(model, sequence, *, grid, duration_sec, labels, max_predictions):
  _, facts, params = model.localizer
  names = facts["label_names"]
  padded, mask = _padded(sequence, facts["max_length"])
  output = model.detect(params, padded, mask)
  keep = np.asarray(output.mask[0])
  segments = np.asarray(output.segments[0])[keep]
  scores = np.asarray(output.scores[0])[keep]
  if model.takes_any_label:
    names = tuple(dict.fromkeys(labels or model.label_names))
    found = _named(
      model,
      sequence,
      segments=segments,
      scores=scores,
      names=names,
      facts=facts["text_classes"],
    )
    return [
      _entry(segment, score, grid, duration_sec) | {"label": name}
      for segment, score, name in found[:max_predictions]
    ]
  rows = zip(segments, scores, np.asarray(output.labels[0])[keep], strict=True)
  wanted = set(names if labels is None else labels)
  found = [
    _entry(segment, score, grid, duration_sec) | {"label": names[label]}
    for segment, score, label in rows
    if names[label] in wanted
  ]
  return found[:max_predictions]


def _named(model, sequence, *, segments, scores, names, facts) -> list[tuple]:
  """(segment, score, name) of proposals under class names, best first."""
  probability = open_vocabulary.class_probabilities(
    sequence,
    segments.astype(np.float64),
    texts=model.class_texts(names),
    chosen=range(len(names)),
    text_scale=facts["text_scale"],
  )
  best = np.argsort(-probability, axis=1)[:, : facts["top_classes"]]
  found = [
    (segments[row], scores[row] * probability[row, code], names[code])
    for row, codes in enumerate(best)
    for code in codes
  ]
  return sorted(found, key=lambda entry: -entry[1])


def _ground(model, sequence, *, grid, duration_sec, queries, max_predictions):
  _, _, params = model.grounder
  vectors, query_mask = model.encoder.text_vectors(list(queries))
  encoded = model.search.encode(params, sequence)
  output = model.search.answer(
    params, encoded, query=vectors, query_mask=query_mask
  )
  found = []
  for row, query in enumerate(queries):
    keep = output.mask[row]
    rows = zip(
      output.segments[row][keep], output.scores[row][keep], strict=True
    )
    moments = [
      _entry(segment, score, grid, duration_sec) | {"query": query}
      for segment, score in rows
    ]
    found += moments[:max_predictions]
  return found, output.absence_logits


def _absence(facts: dict | None, queries, logits) -> dict:
  """What the calibration says; nothing where there is none."""
  if facts is None:
    return {"absence": None, "absent": None}
  fitted = grounding_evaluation.calibration_of(facts)
  rows = zip(
    queries, fitted.probability(logits), fitted.is_absent(logits), strict=True
  )
  absence = {
    query: {"probability": float(probability), "absent": bool(absent)}
    for query, probability, absent in rows
  }
  return {
    "absence": absence,
    "absent": all(entry["absent"] for entry in absence.values()),
  }


def _padded(sequence, max_length: int) -> tuple[np.ndarray, np.ndarray]:
  """(1, t, d) and (1, t): at least `max_length` long, else the next double.

  The heads are convolutional, so that a longer video needs no other weights;
  doubling keeps the number of compiled programs small.
  """
  length = max_length
  while length < len(sequence):
    length *= 2
  padded = np.zeros((1, length, sequence.shape[1]), np.float32)
  padded[0, : len(sequence)] = sequence
  return padded, (np.arange(length) < len(sequence))[None]


def _entry(segment, score, grid, duration_sec) -> dict:
  start_sec, end_sec = np.clip(
    grid.to_seconds(np.asarray(segment, np.float64)), 0.0, duration_sec
  )
  return {
    "start_sec": float(start_sec),
    "end_sec": float(end_sec),
    "score": float(score),
  }
