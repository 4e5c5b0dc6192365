"""Builds shards with Apache Beam (extra `beam`).

Each element is one shard job, run by the same idempotent function as on
threads: a bundle that Beam retries, or runs twice at a time, leaves the same
files. Every worker reads and writes the locations in the jobs: addresses, or
paths on a file system that all of them mount.
"""

import concurrent.futures
import functools
from collections.abc import Sequence

from clap_jax.storage import locations
from tfds_builders import shards

_READ_AT_ONCE = 16


def _import_beam():
  try:
    import apache_beam as beam  # noqa: PLC0415  an extra
    from apache_beam.options import pipeline_options  # noqa: PLC0415
  except ImportError as error:
    raise ValueError(
      "the beam runner needs Apache Beam: pip install 'clap_jax[beam]', or "
      "leave --runner out"
    ) from error
  return beam, pipeline_options


def build_all(
  jobs: Sequence[shards.ShardJob],
  folder: locations.Location,
  *,
  options: Sequence[str],
) -> list[dict]:
  """Runs the jobs as a pipeline and waits for it.

  Args:
    folder: folder of the shards; all workers reach it.
    options: options of the pipeline, e.g. --runner=FlinkRunner,
      --flink_master=host:8081; by default Beam's runner on this machine.

  Returns:
    The done-files in the order of the jobs.

  Raises:
    ValueError: Beam is not installed, or ended without all shards.
  """
  beam, pipeline_options = _import_beam()
  shards.clean(folder, jobs)
  with beam.Pipeline(
    options=pipeline_options.PipelineOptions(list(options))
  ) as pipeline:
    _ = (
      pipeline
      | beam.Create(list(jobs))
      | beam.Reshuffle()
      | beam.Map(shards.build_shard, folder=str(folder))
    )
  read = functools.partial(shards.read_done, folder=folder)
  with concurrent.futures.ThreadPoolExecutor(_READ_AT_ONCE) as pool:
    done = list(pool.map(read, jobs))
  missing = [job.name for job, d in zip(jobs, done, strict=True) if d is None]
  if missing:
    raise ValueError(
      f"the pipeline ended without {len(missing)} of {len(jobs)} shards, "
      f"{missing[0]} first; check that all workers reach {folder}"
    )
  return done
