"""Loads batches in the background, ahead of the training loop.

The batch of step n is a function of (seed, n): a run resumes by starting at
another step, and every host takes its rows of the same global batch. A
checkpoint needs only the step.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import grain

from clap_jax.data import decoding

BatchT_co = TypeVar("BatchT_co", covariant=True)
_ENDLESS = 1 << 60
_BUFFERED = 4  # batches that wait, or one per thread
_PLANNING_THREADS = 2


class TrainingSource(Protocol[BatchT_co]):
  """An endless source of items, each a function of (seed, index)."""

  def __len__(self) -> int:
    """Returns the number of items of an epoch."""
    ...

  def item(self, index: int, *, seed: int) -> Any: ...

  def collate(self, examples: Sequence, *, batch_size: int) -> BatchT_co: ...


@runtime_checkable
class ProcessSource(TrainingSource[BatchT_co], Protocol[BatchT_co]):
  """A source whose batches processes can decode."""

  def start_processes(self, number: int) -> decoding.DecodingProcesses: ...

  def batch_of(
    self,
    indices: Sequence[int],
    *,
    seed: int,
    processes: decoding.DecodingProcesses,
  ) -> BatchT_co: ...


class EvaluationSource(Protocol[BatchT_co]):
  """A fixed list of examples."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Any: ...

  def collate(self, examples: Sequence, *, batch_size: int) -> BatchT_co: ...


class BatchIterator(Generic[BatchT_co]):
  """An iterator over batches; close it, or use it in a with statement."""

  def __init__(
    self,
    dataset: grain.IterDataset,
    processes: decoding.DecodingProcesses | None = None,
  ):
    """Starts the threads; takes ownership of the decoding processes."""
    self._processes = processes
    self._iterator = iter(dataset)
    self._is_closed = False

  def __iter__(self) -> Iterator[BatchT_co]:
    return self

  def __next__(self) -> BatchT_co:
    if self._is_closed:
      raise StopIteration
    return next(self._iterator)

  def close(self) -> None:
    """Ends threads and processes and releases the buffered batches."""
    if not self._is_closed:
      self._is_closed = True
      if self._processes is not None:
        self._processes.close()
      self._iterator.close()

  def scalars(self) -> dict[str, float]:
    """Returns counts to log with the run's metrics."""
    if self._processes is None:
      return {}
    return {"perf/decoder_restarts": float(self._processes.num_restarts)}

  def __enter__(self) -> "BatchIterator[BatchT_co]":
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def __del__(self):
    if not getattr(self, "_is_closed", True):
      self.close()


def training_batches(
  item_source: TrainingSource[BatchT_co],
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  num_threads: int = 2,
  num_processes: int = 0,
  rows: Sequence[int] | None = None,
) -> BatchIterator[BatchT_co]:
  """Yields this host's rows of the global batches of steps start_step, ...

  Args:
    batch_size: number of rows of the global batch, over all hosts.
    seed: seed of the order and of every random choice.
    start_step: first step, e.g. the step of the checkpoint.
    num_threads: number of background threads; 0 reads in the caller's.
    num_processes: number of decoding processes of a
      data.clip_source.ClipSource; batches do not depend on it. 0 or 1: the
      threads decode.
    rows: rows of each global batch that this host loads, in order; see
      training.mesh.batch_rows. None for all.

  Raises:
    ValueError: the sizes are inconsistent.
  """
  rows = _checked_rows(rows, batch_size)

  processes: decoding.DecodingProcesses | None = None

  def make_batch(step: int) -> BatchT_co:
    indices = [step * batch_size + row for row in rows]
    if processes is not None:
      assert isinstance(item_source, ProcessSource)  # it has started them
      return item_source.batch_of(indices, seed=seed, processes=processes)
    items = [item_source.item(index, seed=seed) for index in indices]
    return item_source.collate(items, batch_size=len(rows))

  steps = grain.MapDataset.range(start_step, _ENDLESS)
  if num_processes > 1:
    if not isinstance(item_source, ProcessSource):
      raise ValueError(
        f"num_processes is {num_processes}, expected 0 or 1: no process can "
        f"decode the items of a {type(item_source).__name__}"
      )
    processes = item_source.start_processes(num_processes)
    # The threads plan, so that the processes need not wait between batches.
    num_threads = _PLANNING_THREADS
  return _start(steps.map(make_batch), num_threads, processes)


def evaluation_batches(
  source: EvaluationSource[BatchT_co],
  *,
  batch_size: int,
  num_threads: int = 2,
  rows: Sequence[int] | None = None,
) -> BatchIterator[BatchT_co]:
  """Yields every example exactly once over all hosts, with padding.

  All hosts get the same number of batches, as collectives require; a host whose
  rows of the last batch lie beyond the end gets padding only.

  Args:
    source: examples to evaluate.
    batch_size: number of rows of the global batch, over all hosts.
    num_threads: see `training_batches`.
    rows: see `training_batches`.

  Raises:
    ValueError: the sizes are inconsistent, or there is nothing to evaluate.
  """
  rows = _checked_rows(rows, batch_size)
  if not len(source):
    raise ValueError("there is nothing to evaluate: the source is empty")

  def make_batch(number: int) -> BatchT_co:
    indices = [number * batch_size + row for row in rows]
    examples = [source[index] for index in indices if index < len(source)]
    return source.collate(examples, batch_size=len(rows))

  numbers = grain.MapDataset.range(0, -(-len(source) // batch_size))
  return _start(numbers.map(make_batch), num_threads)


def _checked_rows(rows: Sequence[int] | None, batch_size: int) -> Sequence[int]:
  rows = range(batch_size) if rows is None else rows
  if batch_size < 1 or not all(0 <= row < batch_size for row in rows):
    raise ValueError(
      f"rows {list(rows)} are not rows of a batch of {batch_size}"
    )
  return rows


def _start(
  dataset: grain.MapDataset,
  num_threads: int,
  processes: decoding.DecodingProcesses | None = None,
) -> BatchIterator:
  options = grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=max(_BUFFERED, num_threads) if num_threads else 0,
  )
  return BatchIterator(dataset.to_iter_dataset(options), processes)
