"""Reads predictions and annotations of QVHighlights (JSON lines)."""

import numpy as np

from clap_jax.annotations import given_file
from clap_jax.annotations.problems import ProblemLog
from clap_jax.metrics import documents, highlights, query_files
from clap_jax.storage import locations


def read_highlight_predictions(
  path: locations.Location,
) -> list[highlights.QueryPrediction]:
  """Reads Moment-DETR's JSON lines with windows, saliency or both.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  log = ProblemLog(path)
  predictions: dict[str, highlights.QueryPrediction] = {}
  keys: set[str] = set()
  for location, record in documents.read_json_lines(path, log):
    query = query_files.query_id(record, predictions, location, log)
    windows = saliency = None
    present = {"pred_relevant_windows", "pred_saliency_scores"} & set(record)
    keys = keys or present
    if present != keys or not present:
      log.add(
        location,
        f"got {sorted(present) or 'neither'}; expected pred_relevant_windows, "
        "pred_saliency_scores or both, the same in every line",
      )
    if "pred_relevant_windows" in record:
      where = f"{location}.pred_relevant_windows"
      windows = query_files.windows_of(
        record["pred_relevant_windows"], where, log, scored=True
      )
      if record["pred_relevant_windows"] == []:
        log.add(where, "got no window; expected at least one")
    if "pred_saliency_scores" in record:
      saliency = record["pred_saliency_scores"]
      sound = isinstance(saliency, list) and len(saliency) > 0
      if not sound or not all(map(documents.is_number, saliency)):
        log.add(
          f"{location}.pred_saliency_scores",
          f"got {documents.kind(saliency)}; expected a finite number per clip",
        )
        saliency = [0.0]
      saliency = np.array(saliency, np.float64)
    predictions[query] = highlights.QueryPrediction(query, windows, saliency)
  if not predictions:
    log.add("", "got no prediction; expected one JSON object per line")
  log.raise_if_any()
  return list(predictions.values())


def read_highlight_truth(
  path: locations.Location,
) -> list[highlights.QueryTruth]:
  """Reads the annotations of QVHighlights.

  Raises:
    MalformedFileError: the file has problems.
    OSError: the file cannot be opened.
  """
  file = given_file.read(path)
  truths = []
  for query, spans in file.spans_of_queries().items():
    windows = np.array([(s.start_sec, s.end_sec) for _, s in spans])
    try:
      saliency = given_file.saliency(file.queries[query])
    except ValueError as error:
      file.log.add(f"query {query}", str(error))
      continue
    if saliency is None:
      file.log.add(f"query {query}", "saliency_scores is missing")
      continue
    truths.append(highlights.QueryTruth(query, windows, saliency))
  file.log.raise_if_any()
  return truths
