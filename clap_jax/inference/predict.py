"""Segments of whole videos, from a class list, free text or examples.

A video may have any length: it is decoded, encoded and searched in windows, see
streaming.py and answering.py.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax

from clap_jax.data import container, features
from clap_jax.inference import answering, streaming, support
from clap_jax.inference import encoder as encoder_lib
from clap_jax.trainers import facts as facts_lib
from clap_jax.trainers import (
  fewshot,
  grounding,
  localization,
  localizers,
  moment_search,
  open_vocabulary,
  running,
  text_models,
  text_space,
)

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
  def naming(self) -> open_vocabulary.Naming:
    """How the proposals of a localizer that takes any label are named."""
    facts = self.localizer[1]
    classes = open_vocabulary.TextClasses(**facts["text_classes"])
    if classes.text_model:
      vectors = text_models.class_vectors(classes.text_model)
    else:
      vectors = lambda names: self.encoder.class_texts(names).vectors  # noqa: E731
    return open_vocabulary.Naming(
      facts["space"],
      functools.lru_cache(maxsize=1)(vectors),
      frozenset(facts["seen_classes"]),
      classes.top_classes,
    )

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
  facts, task, params = running.restored(
    workdir, trainer.MODEL_FILE, trainer.make_task
  )
  if "text_classes" in facts:
    facts["space"] = text_space.load(workdir / open_vocabulary.SPACE_FILE)
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
  on_time: Callable[[float, float], None] | None = None,
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
    on_time: called from another thread with (seconds of video that are
      decoded, seconds in all).

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
  request = answering.Request(labels, queries, examples, max_predictions)
  found, failed = [], []
  stated = [_stated_sec(video) for video in videos]
  lengths_sec = [sec if isinstance(sec, float) else 0.0 for sec in stated]
  for done, (video, duration_sec) in enumerate(
    zip(videos, stated, strict=True)
  ):
    on_clip = _timer(on_time, sum(lengths_sec[:done]), sum(lengths_sec))
    try:
      if isinstance(duration_sec, Exception):
        raise duration_sec
      found.append(
        _predict_one(
          model,
          pathlib.Path(video),
          request,
          duration_sec=duration_sec,
          on_clip=on_clip,
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
  model: Model,
  video: pathlib.Path,
  request: answering.Request,
  *,
  duration_sec: float,
  on_clip: Callable[[float], None],
) -> dict:
  grid = features.FeatureGrid(
    start_sec=0.0,
    stride_sec=model.stride_sec,
    clip_sec=model.encoder.clip.clip_sec,
  )
  answers = answering.Answers(model, request, grid)
  windows = streaming.stream_windows(
    model.encoder,
    video,
    stride_sec=model.stride_sec,
    window_steps=answering.window_steps(model),
    on_clip=on_clip,
  )
  for number, window in enumerate(windows):
    answers.add(window, number=number)
  result = {
    "video": str(video),
    "duration_sec": duration_sec,
    "predictions": answers.entries(duration_sec),
    "absent": None,
  }
  return result | (answers.absence() if request.queries else {})


def _timer(
  on_time: Callable[[float, float], None] | None,
  before_sec: float,
  total_sec: float,
) -> Callable[[float], None]:
  """Tells the time within all videos from that within one."""
  if on_time is None:
    return lambda start_sec: None
  return lambda start_sec: on_time(before_sec + start_sec, total_sec)


def _stated_sec(video: str | pathlib.Path) -> float | Exception:
  """Seconds that a video says it lasts, or why it cannot be opened."""
  try:
    return float(container.probe(pathlib.Path(video)).duration_sec)
  except (container.VideoError, OSError) as error:
    return error
