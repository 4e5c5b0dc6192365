"""Trains temporal action localization on frozen features."""

from clap_jax import types
from clap_jax.data import feature_reader
from clap_jax.evaluation import localization as evaluation
from clap_jax.storage import locations
from clap_jax.storage import metadata as metadata_lib
from clap_jax.trainers import abstract, fit, imported_heads, localizers

MODEL_FILE = "localizer.json"
make_task = localizers.make_task


def abstract_run(
  config: localizers.AnyHeadConfig, facts: abstract.DataFacts
) -> abstract.AbstractRun:
  """Returns the task and its batch shapes; see trainers/abstract.py."""
  names = config.class_names([str(i) for i in range(facts.num_classes)])
  described = localizers.model_metadata(config, names, facts.feature_width)
  task = localizers.make_task(described, loss_config=config.loss)
  batch = abstract.batch_of(
    types.LocalizationBatch,
    b=config.data.batch_size,
    t=config.data.max_length,
    d=facts.feature_width,
    n=facts.max_segments,
  )
  return abstract.AbstractRun(task, batch)


def train(config: localizers.AnyHeadConfig, workdir) -> list[dict]:
  """Trains or resumes the run in `workdir`; returns its result rows."""
  workdir = locations.at(workdir)
  reader = feature_reader.FeatureReader(config.data)
  reader.check(reader.num_segments, what="labelled segment")
  source = reader.localization_source(config.data.train_split)
  facts = localizers.model_metadata(
    config,
    config.class_names(reader.dataset.label_names),
    source.feature_width,
    standardization=reader.standardization(),
  )
  task = localizers.make_task(facts, loss_config=config.loss)
  evaluator = evaluation.Evaluator(config, reader, task, facts["label_names"])
  params, average = fit.fit(
    task,
    config,
    workdir=workdir,
    source=source,
    measure=lambda params, split: evaluator(params, split)[0],
    title="localization",
    prepare=config.starter(
      facts, model_file=MODEL_FILE, dataset=reader.dataset
    ),
  )
  encoder = metadata_lib.encoder_metadata(reader.extraction)
  fit.write_metadata(workdir / MODEL_FILE, facts | average | encoder)
  return evaluator.write(workdir, params, config.data.eval_split)


def evaluate(
  config: localizers.AnyHeadConfig, workdir, *, split=None
) -> list[dict]:
  """Evaluates a finished run, by default on its `eval_split`."""
  facts, task, params = fit.restored(
    workdir, MODEL_FILE, localizers.make_task, decode=config.decode
  )
  split = split or config.data.eval_split
  reader = feature_reader.FeatureReader(config.data)
  reader.check(reader.num_segments, what="labelled segment", split=split)
  names = imported_heads.class_names(facts, reader.dataset, place=str(workdir))
  evaluator = evaluation.Evaluator(config, reader, task, names)
  return evaluator.rows(params, split)[0]
