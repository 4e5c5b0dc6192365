"""Writes the page of scored prediction files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from clap_jax.metrics import score
from clap_jax.report import page, result_table, run_files


def write(
  path: str | pathlib.Path,
  reports: Sequence[Mapping[str, Any]],
  *,
  predictions_path: str | pathlib.Path,
  ground_truth_path: str | pathlib.Path,
  subset: str | None,
  blocked_videos_path: str | pathlib.Path | None,
  classifier: score.Classifier | None,
) -> pathlib.Path:
  """Writes the page of reports that `metrics.score.score` returned."""
  name = pathlib.Path(predictions_path).name
  truth_name = pathlib.Path(ground_truth_path).name
  rows = [
    {
      "encoder": name,
      "seed": 0,
      "dataset": f"{truth_name}, {report['card']['split']}, "
      f"{report['card']['protocol']}",
      "task": report["card"]["task"],
      "metric": metric,
      "value": value,
      "card": report["card"],
    }
    for report in reports
    for metric, value in report["metrics"].items()
  ]
  protocols = [report["card"]["protocol"] for report in reports]
  diagnoses = []
  for report in reports:
    if report["card"]["task"] != "detection":
      continue
    inputs = score.detection_inputs(
      predictions_path,
      ground_truth_path=ground_truth_path,
      protocol=report["card"]["protocol"],
      subset=subset or score.own_subset(protocols),
      blocked_videos_path=blocked_videos_path,
      classifier=classifier,
    )
    diagnoses.append(
      run_files.diagnosed(
        inputs.predictions,
        inputs.truth,
        protocol=inputs.protocol,
        duration_sec=None,
        name=report["card"]["protocol"],
        where=f"{name} against {truth_name}",
      )
    )
  return page.write_report(
    path,
    page.Report(
      title=f"Evaluation of {name}",
      table=result_table.ResultTable.of(
        rows, titles={name: name}, reference=""
      ),
      rows=rows,
      diagnoses=diagnoses,
    ),
  )
