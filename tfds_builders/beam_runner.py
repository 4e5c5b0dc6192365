"""Builds shards with Apache Beam (extra `beam`).

Each element is one shard job. It is written by the very function that threads
run, which is idempotent: a bundle that Beam retries, or runs twice at a time,
leaves the same file. Videos and shards lie on a file system that all workers
mount.
"""

import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from clap_jax.storage import output
from tfds_builders import shards


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


def build_one(job: shards.ShardJob, folder: str) -> tuple[str, dict]:
  """Writes a shard apart from all other attempts; (name, done-file).

  Attempts at one shard may overlap on different workers, so each writes into
  a folder of its own and renames its files into place, the done-file last.
  """
  target = pathlib.Path(folder)
  done = shards.read_done(job, target)
  if done is not None:
    return job.name, done
  attempt = pathlib.Path(tempfile.mkdtemp(prefix=".attempt-", dir=target))
  try:
    done = shards.build_shard(job, attempt)
    for name in shards.file_names(job):
      (attempt / name).replace(target / name)
    output.sync_folder(target)
  finally:
    shutil.rmtree(attempt, ignore_errors=True)
  return job.name, done


def build_all(
  jobs: Sequence[shards.ShardJob],
  folder: pathlib.Path,
  *,
  options: Sequence[str],
) -> list[dict]:
  """Runs the jobs as a pipeline and waits for it.

  Args:
    folder: where they go; all workers see it.
    options: of the pipeline, e.g. --runner=FlinkRunner,
      --flink_master=host:8081; by default Beam's runner on this machine.

  Returns:
    The done-files in the order of the jobs.

  Raises:
    ValueError: if Beam is not installed or ended without all shards.
  """
  beam, pipeline_options = _import_beam()
  shards.clean(folder)
  with beam.Pipeline(
    options=pipeline_options.PipelineOptions(list(options))
  ) as pipeline:
    _ = (
      pipeline
      | beam.Create(list(jobs))
      | beam.Reshuffle()
      | beam.Map(build_one, folder=str(folder))
    )
  done = [shards.read_done(job, folder) for job in jobs]
  missing = [job.name for job, d in zip(jobs, done, strict=True) if d is None]
  if missing:
    raise ValueError(
      f"the pipeline ended without {len(missing)} of {len(jobs)} shards, "
      f"{missing[0]} first; do all workers see {folder}?"
    )
  return done
