"""Predicts segments of videos from classes, queries or examples.

A video may have any length: it is decoded while it is encoded, and the heads
see windows of bounded length, see streaming.py and sequences.py.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clap_jax.data import features, query_features
from clap_jax.inference import (
  inputs,
  model_directory,
  streaming,
  support,
  video_predictor,
  zero_shot,
)
from clap_jax.media import errors, guard
from clap_jax.media.limits import DEFAULT_LIMITS, VideoLimits


def predict(
  model: model_directory.Model,
  videos: Sequence[str | pathlib.Path],
  *,
  labels: Sequence[str] | None = None,
  queries: Sequence[str] = (),
  support_dir: str | pathlib.Path | None = None,
  max_predictions: int = 20,
  feature_timing: Mapping[str, float] | None = None,
  texts: str | pathlib.Path | None = None,
  on_video: Callable[[str], None] | None = None,
  limits: VideoLimits = DEFAULT_LIMITS,
  on_time: Callable[[float, float], None] | None = None,
) -> dict:
  """Predictions for local video files, in the shape the contract promises.

  Args:
    model: encoder and heads.
    videos: local files of videos, or of features as the heads were trained
      on; one that fails is listed, the others go on.
    labels: classes to report; None for all of the localizer. An
      open-vocabulary localizer takes any. Ignored when there are only
      queries or a support.
    queries: free texts, each answered with its own moments and, by the
      calibration that the grounder was stored with, a probability of absence.
      An encoder alone compares with sentences about nothing instead.
    support_dir: examples of the classes to look for, see inference/support.py.
    max_predictions: best segments kept per video or query.
    feature_timing: of files of features, see `inputs.parse_timing`; None for
      what the heads' metadata states.
    texts: .npz of the queries' token vectors, see data.query_features; None
      for those of the model's encoder.
    on_video: called with the name of a video before work on it begins.
    limits: caps on what is decoded, of the support too.
    on_time: called from another thread with (seconds of video that are
      decoded, seconds in all).

  Returns:
    {"videos": [{"video", "duration_sec", "predictions": [...], "absent"}],
    "failed": [{"video", "reason"}]}. The duration of a file of features is
    known to half a stride. With queries a video has "absence" too,
    {query: {"probability", "absent"}}; "absent" is True if all of them are. It
    is None without queries or for a grounder without calibration. Where the
    grounder scores highlights there is "highlights", {query: [score of each
    feature]}. A video has
    "method" too where an encoder alone answered, see zero_shot.py. With a
    support the document has "support" too, {"method", "shots", "skipped"}: how
    it was matched, the number of examples of each class, and the examples that
    cannot be decoded as {"video", "reason"}.

  Raises:
    ValueError: if the model lacks the head asked for, labels are unknown or
      none, a query is empty, `max_predictions` is below 1, or the support
      folder is malformed or has a class without an example that decodes.
  """
  queries = tuple(dict.fromkeys(queries))  # asked twice, answered once
  _check_request(
    model,
    labels,
    queries,
    max_predictions,
    has_support=support_dir is not None,
  )
  has_videos = not all(map(inputs.are_features, videos))
  _check_encoder(
    model,
    has_videos=has_videos,
    reads_texts=bool(support_dir or (queries and texts is None)),
  )
  vectors = None
  if queries and texts is not None:
    vectors = _text_vectors(texts, queries, model)
  examples = None
  if support_dir is not None:
    examples = support.SupportSet(
      model.encoder,
      support_dir,
      stride_sec=model.stride_sec,
      matcher=model.matcher,
      limits=limits,
    )
  request = video_predictor.Request(
    labels, queries, examples, max_predictions, vectors
  )
  predictor = video_predictor.VideoPredictor(model, request)
  found, failed = [], []
  stated = [_stated_sec(video, limits) for video in videos]
  lengths_sec = [sec if isinstance(sec, float) else 0.0 for sec in stated]
  for done, (video, stated_sec) in enumerate(zip(videos, stated, strict=True)):
    on_clip = _timer(on_time, sum(lengths_sec[:done]), sum(lengths_sec))
    if on_video:
      on_video(str(video))
    try:
      if isinstance(stated_sec, Exception):
        raise stated_sec
      if inputs.are_features(video):
        entry = _predict_features(
          pathlib.Path(video),
          predictor,
          heads=_asked_heads(model, request),
          timing=feature_timing or {},
        )
      else:
        entry = _predict_one(
          model,
          pathlib.Path(video),
          predictor,
          on_clip=on_clip,
          limits=limits,
        )
      found.append(entry)
    except (errors.VideoError, features.FeatureError, OSError) as error:
      failed.append({"video": str(video), "reason": str(error)})
  document = {"videos": found, "failed": failed}
  return document | ({"support": examples.summary} if examples else {})


def _check_request(
  model, labels, queries, max_predictions, *, has_support
) -> None:
  if max_predictions < 1:
    raise ValueError(f"max_predictions must be at least 1: {max_predictions}.")
  if not all(query.strip() for query in queries):
    raise ValueError("A query is empty; describe the moment in words.")
  if model.is_encoder_alone:
    _check_zero_shot(model, labels, queries, has_support=has_support)
  elif queries and model.grounder is None:
    raise ValueError(
      "This model has no grounding head: it takes no --query."
      + _alone_hint(model)
    )
  if labels is None and (queries or has_support):
    return
  if model.localizer is None and not model.is_encoder_alone:
    raise ValueError(
      "This model has no localization head; give a --query."
      + _alone_hint(model)
    )
  if labels is not None and not labels:
    raise ValueError(
      "The list of labels is empty; the model has "
      f"{', '.join(model.label_names) or 'any name'}, one per line."
    )
  if model.takes_any_label:
    if not all(label.strip() for label in labels or ()):
      raise ValueError("A label is empty; name the action in words.")
    return
  unknown = sorted(set(labels or ()) - set(model.label_names))
  if unknown:
    raise ValueError(
      f"The model does not have the labels {unknown}. It has "
      f"{', '.join(model.label_names)}. Ask for other actions with --query."
    )


def _check_zero_shot(model, labels, queries, *, has_support) -> None:
  if labels is None and not (queries or has_support):
    raise ValueError(
      "This model is an encoder alone, which has no classes of its own: give "
      "--query, --labels or --support."
    )
  if labels is not None or queries:
    zero_shot.check_aligned(model.encoder)


def _alone_hint(model: model_directory.Model) -> str:
  if model.encoder is None:
    return ""
  return (
    f" Its encoder alone does: --model {model.encoder.directory} (zero-shot)."
  )


def _check_encoder(
  model: model_directory.Model, *, has_videos: bool, reads_texts: bool
) -> None:
  if model.encoder is not None:
    return
  if has_videos:
    raise ValueError(
      "This model is a head without the encoder of its features: give "
      f"files of features ({', '.join(inputs.FEATURE_SUFFIXES)}) instead of "
      f"videos, or name the encoder in a {model_directory.MODEL_FILE}."
    )
  if reads_texts or model.takes_any_label:
    raise ValueError(
      "This model has no encoder, which texts and examples need; name it in a "
      f"{model_directory.MODEL_FILE}, or give the token vectors of the queries "
      "(--texts)."
    )


def _text_vectors(texts, queries, model):
  """Token vectors (q, l, e) and mask (q, l) of a file of texts."""
  if model.grounder is None:
    raise ValueError(
      "texts: only a grounding head reads token vectors of queries; leave them "
      "out."
    )
  vectors, mask = query_features.read_texts(texts, queries)
  width, expected = vectors.shape[-1], model.grounder[1]["query_width"]
  if width != expected:
    raise ValueError(
      f"{texts} has token vectors of width {width}, but the grounder was "
      f"trained on {expected}; give vectors of that text encoder."
    )
  return vectors, mask


def _asked_heads(
  model: model_directory.Model, request: video_predictor.Request
) -> dict[str, Mapping[str, Any]]:
  """The metadata of the heads that a request asks."""
  asked = {
    "localizer": request.asks_labels,
    "grounder": bool(request.queries),
    "matcher": request.examples is not None,
  }
  heads = {
    name: getattr(model, name)[1]
    for name, is_asked in asked.items()
    if is_asked and getattr(model, name) is not None
  }
  return heads or {
    "encoder": {
      "feature_width": model.encoder.feature_width,
      "stride_sec": model.stride_sec,
      "clip_sec": model.encoder.clip.clip_sec,
    }
  }


def _predict_features(
  path: pathlib.Path,
  predictor: video_predictor.VideoPredictor,
  *,
  heads: Mapping[str, Mapping[str, Any]],
  timing: Mapping[str, float],
) -> dict:
  try:
    video = inputs.read_features(path, heads, timing=timing)
  except ValueError as error:
    raise features.FeatureError(str(error)) from error
  duration_sec = inputs.estimated_duration_sec(video)
  found = predictor.predict(video, duration_sec)
  return {"video": str(path), "duration_sec": duration_sec} | found


def _predict_one(
  model: model_directory.Model,
  video: pathlib.Path,
  predictor: video_predictor.VideoPredictor,
  *,
  on_clip: Callable[[float], None],
  limits: VideoLimits,
) -> dict:
  grid = features.FeatureGrid(
    start_sec=0.0,
    stride_sec=model.stride_sec,
    clip_sec=model.encoder.clip.clip_sec,
  )
  encoded = streaming.encode_video(
    model.encoder,
    video,
    stride_sec=model.stride_sec,
    on_clip=on_clip,
    limits=limits,
  )
  video_features = features.VideoFeatures(
    encoded.features, grid, encoded.cuts_sec
  )
  found = predictor.predict(video_features, encoded.duration_sec)
  return {"video": str(video), "duration_sec": encoded.duration_sec} | found


def _timer(
  on_time: Callable[[float, float], None] | None,
  before_sec: float,
  total_sec: float,
) -> Callable[[float], None]:
  """Tells the time within all videos from that within one."""
  if on_time is None:
    return lambda start_sec: None
  return lambda start_sec: on_time(before_sec + start_sec, total_sec)


def _stated_sec(
  video: str | pathlib.Path, limits: VideoLimits
) -> float | Exception:
  """Seconds that a video states or 0, for the progress; or why it is broken."""
  if inputs.are_features(video):
    return 0.0
  try:
    info = guard.probe(pathlib.Path(video), limits=limits)
    return float(info.duration_sec or 0.0)
  except (errors.VideoError, OSError) as error:
    return error
