"""Evaluates retrieval between clips and captions."""

from typing import Any

import numpy as np

from clap_jax.data import clip_reader, pipeline
from clap_jax.evaluation import predictor as predictor_lib
from clap_jax.evaluation import results
from clap_jax.metrics import card, retrieval
from clap_jax.training import processes


class Evaluator:
  """Evaluates retrieval between the clips and captions of a split."""

  def __init__(self, config: Any, reader: clip_reader.ClipReader, task: Any):
    """Takes a PretrainConfig, a reader of its data, and a PretrainTask."""
    self._config = config
    self._reader = reader
    self._batch_size = config.data.batch_size
    self._predict = predictor_lib.of_config(task.predict, config)

  def __call__(self, params, split: str) -> dict[str, float]:
    source = self._reader.captioned_clips(split)
    params = self._predict.place(params)
    video, text = [], []
    with pipeline.evaluation_batches(
      source, batch_size=self._batch_size, rows=self._predict.rows
    ) as batches:
      for batch in batches:
        output = self._predict.of_rows(params, batch)
        video.append(output["video"])
        text.append(output["text"])
    # The padding of the last batch comes after all clips.
    text_id = source.text_ids
    video = np.concatenate(video)[: len(source)]
    text = np.concatenate(text)[: len(source)]
    ids, first = np.unique(text_id, return_index=True)
    return retrieval.evaluate(
      video @ text[first].T, video_text_id=text_id, text_id=ids
    )

  def rows(self, params, split: str) -> list[dict]:
    """Returns retrieval rows, or one on the omission without captions."""
    config = self._config
    if self._reader.num_captions(split):
      metrics, notes = self(params, split), ()
    else:
      metrics = {"num_captions": 0.0}
      notes = (f"retrieval is skipped: {split} has no captions",)
      processes.print_on_first(notes[0])
    return results.rows_of(
      metrics,
      encoder=config.encoder,
      seed=config.loop.seed,
      dataset=config.data.dataset,
      split=split,
      task="retrieval",
      card=self._card(split, notes=notes),
    )

  def _card(self, split: str, *, notes: tuple[str, ...]) -> dict:
    dataset = self._reader.dataset
    ids = [info.id for info in dataset.examples(split)]
    subset = dataset.subset_note(split)
    return card.EvaluationCard(
      protocol="retrieval: one clip per caption, equal texts are one query",
      task="retrieval",
      split=split,
      split_hash=card.split_hash(ids),
      num_evaluated=len(ids),
      num_missing=len(dataset.damaged(split)),
      notes=((subset,) if subset else ()) + notes,
      seeds=(self._config.loop.seed,),
    ).to_dict()
