"""Predicts moments of videos from classes, queries or support examples.

Videos may have any length: decoding and encoding overlap, and the heads take
windows of bounded length; see streaming.py and sequences.py.
"""

import os
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
  videos: Sequence[str | os.PathLike],
  *,
  labels: Sequence[str] | None = None,
  queries: Sequence[str] = (),
  support_dir: str | os.PathLike | None = None,
  max_predictions: int = 20,
  feature_timing: Mapping[str, float] | None = None,
  texts: str | os.PathLike | None = None,
  on_video: Callable[[str], None] | None = None,
  limits: VideoLimits = DEFAULT_LIMITS,
  on_time: Callable[[float, float], None] | None = None,
) -> dict:
  """Predicts moments of local videos or feature files.

  Args:
    model: encoder and heads.
    videos: videos, or feature files of the kind that the heads were trained
      on. A file that fails is listed and skipped.
    labels: classes to report; None reports all classes of the localizer, or
      none if there are queries or support examples. An open-vocabulary
      localizer accepts any name.
    queries: free texts. Each has its own moments and a probability of absence,
      by the grounder's calibration or, for an encoder alone, by comparison
      with background sentences.
    support_dir: folder of support examples, see inference/support.py.
    max_predictions: maximum number of moments for the classes, for the support
      examples, and for each query.
    feature_timing: timing of feature files, see `inputs.parse_timing`; None
      uses the heads' metadata.
    texts: .npz with the queries' token vectors, see data.query_features; None
      encodes the queries.
    on_video: called with the name of each video before it is processed.
    limits: decoding limits of videos and support examples.
    on_time: called from another thread with (decoded seconds, total seconds).

  Returns:
    {"videos": [{"video", "duration_sec", "predictions": [...], "absent"}],
    "failed": [{"video", "reason"}]}. The duration of a feature file is exact
    to half a stride. With queries a video also has "absence",
    {query: {"probability", "absent"}}; "absent" is True if all queries are
    absent, and None without queries or without a calibration. A grounder that
    scores highlights adds "highlights", {query: [score of each feature]}, and
    an encoder alone adds "method", see zero_shot.py. With support examples the
    document also has "support", {"method", "shots", "skipped"}: the matching
    method, the number of examples per class, and {"video", "reason"} of the
    examples that cannot be decoded.

  Raises:
    ValueError: if the model lacks the requested head, labels are unknown or
      none, a query is empty, `max_predictions` is below 1, or the support
      folder is malformed or has a class without a decodable example.
  """
  queries = tuple(dict.fromkeys(queries))
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
    encoder, stride_sec = model.encoder_and_stride()
    examples = support.SupportSet(
      encoder,
      support_dir,
      stride_sec=stride_sec,
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
    raise ValueError(f"max_predictions is {max_predictions}; expected >= 1.")
  if not all(query.strip() for query in queries):
    raise ValueError("A query is empty; describe the moment in words.")
  if model.is_encoder_alone:
    _check_zero_shot(model, labels, queries, has_support=has_support)
  elif queries and model.grounder is None:
    raise ValueError(
      "This model has no grounding head, which --query needs."
      + _alone_hint(model)
    )
  if labels is None and (queries or has_support):
    return
  if model.localizer is None and not model.is_encoder_alone:
    raise ValueError(
      "This model has no localization head; pass --query." + _alone_hint(model)
    )
  if labels is not None and not labels:
    raise ValueError(
      "The list of labels is empty; expected some of "
      f"{', '.join(model.label_names) or 'any names'}, one per line."
    )
  if model.takes_any_label:
    if not all(label.strip() for label in labels or ()):
      raise ValueError("A label is empty; name the action in words.")
    return
  unknown = sorted(set(labels or ()) - set(model.label_names))
  if unknown:
    raise ValueError(
      f"The model does not have the labels {unknown}. It has "
      f"{', '.join(model.label_names)}. Use --query for other actions."
    )


def _check_zero_shot(model, labels, queries, *, has_support) -> None:
  if labels is None and not (queries or has_support):
    raise ValueError(
      "This model is an encoder without heads and has no classes; pass "
      "--query, --labels or --support."
    )
  if labels is not None or queries:
    zero_shot.check_aligned(model.encoder)


def _alone_hint(model: model_directory.Model) -> str:
  if model.encoder is None:
    return ""
  return (
    f" For zero-shot prediction pass --model {model.encoder.directory}, its "
    "encoder."
  )


def _check_encoder(
  model: model_directory.Model, *, has_videos: bool, reads_texts: bool
) -> None:
  if model.encoder is not None:
    return
  if has_videos:
    raise ValueError(
      "This model is a head without the encoder of its features; pass feature "
      f"files ({', '.join(inputs.FEATURE_SUFFIXES)}) instead of videos, or "
      f"name the encoder in a {model_directory.MODEL_FILE}."
    )
  if reads_texts or model.takes_any_label:
    raise ValueError(
      "This model has no encoder, which texts and support examples need; name "
      f"it in a {model_directory.MODEL_FILE}, or pass the token vectors of the "
      "queries (--texts)."
    )


def _text_vectors(texts, queries, model):
  """Returns the token vectors (q, l, e) and mask (q, l) of a texts file."""
  if model.grounder is None:
    raise ValueError(
      "--texts: only a grounding head reads token vectors, and the model has "
      "none; remove --texts."
    )
  vectors, mask = query_features.read_texts(texts, queries)
  width, expected = vectors.shape[-1], model.grounder[1]["query_width"]
  if width != expected:
    raise ValueError(
      f"{texts} has token vectors of width {width}, but the grounder was "
      f"trained on width {expected}; pass vectors of that text encoder."
    )
  return vectors, mask


def _asked_heads(
  model: model_directory.Model, request: video_predictor.Request
) -> dict[str, Mapping[str, Any]]:
  """Returns the metadata of the heads that a request uses."""
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
  if heads:
    return heads
  encoder, stride_sec = model.encoder_and_stride()
  return {
    "encoder": {
      "feature_width": encoder.feature_width,
      "stride_sec": stride_sec,
      "clip_sec": encoder.clip.clip_sec,
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
  encoder, stride_sec = model.encoder_and_stride()
  encoded, duration_sec = streaming.encode_video(
    encoder, video, stride_sec=stride_sec, on_clip=on_clip, limits=limits
  )
  found = predictor.predict(encoded, duration_sec)
  return {"video": str(video), "duration_sec": duration_sec} | found


def _timer(
  on_time: Callable[[float, float], None] | None,
  before_sec: float,
  total_sec: float,
) -> Callable[[float], None]:
  """Returns a callback that turns time in one video into total progress."""
  if on_time is None:
    return lambda start_sec: None
  return lambda start_sec: on_time(before_sec + start_sec, total_sec)


def _stated_sec(
  video: str | os.PathLike, limits: VideoLimits
) -> float | Exception:
  """Returns a video's duration by its header (0 if unknown), or an error."""
  if inputs.are_features(video):
    return 0.0
  try:
    info = guard.probe(pathlib.Path(video), limits=limits)
    return float(info.duration_sec or 0.0)
  except (errors.VideoError, OSError) as error:
    return error
