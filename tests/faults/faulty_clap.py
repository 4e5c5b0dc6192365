"""`clap` itself, with faults: `python -m tests.faults.faulty_clap FAULTS ...`.

FAULTS is a comma-separated list of KIND@STEP[/PROCESS][=NUMBER], or "none". A
fault happens when the batch of its step is asked for, in that process or in
all. Kinds: term, kill (signals to the own process), sleep (NUMBER seconds),
hang (in C, holding the interpreter's lock), raise, every (sleeps NUMBER seconds
at every step from STEP on), forbid (no more writing of new files), full (no
file may grow any more, as on a full disk), hoard (takes memory until there is
none), and the batches nan and huge. The kind worker raises in the background
thread that reads for the step.
"""

import ctypes
import functools
import os
import pathlib
import re
import resource
import signal
import sys
import time

import jax
import numpy as np

from clap_jax import main
from clap_jax.data import pipeline
from clap_jax.training import fit, processes

NOBODY = 65534
_FAULT = re.compile(r"([a-z]+)@(\d+)(?:/(\d+))?(?:=([\d.]+))?")


def parse(text):
  if text == "none":
    return []
  faults = []
  for item in text.split(","):
    kind, step, process, number = _FAULT.fullmatch(item).groups()
    faults.append(
      (
        kind,
        int(step),
        None if process is None else int(process),
        float(number or 0),
      )
    )
  return faults


def _spoil(batch, value):
  """The batch with every float of it scaled or replaced."""
  return jax.tree.map(
    lambda leaf: (
      (
        np.full_like(leaf, np.nan)
        if np.isnan(value)
        else leaf * leaf.dtype.type(value)
      )
      if np.issubdtype(np.asarray(leaf).dtype, np.floating)
      else leaf
    ),
    batch,
  )


def hoard():
  """Fills what is left of memory, up to 256 MiB more than there is in use."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  limit = pages * os.sysconf("SC_PAGE_SIZE") + (256 << 20)
  resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
  taken = []
  while True:
    taken.append(np.ones(1 << 23, np.uint8))


class FaultySource:
  """Items from a source; raises in place of those of some steps."""

  def __init__(self, source, steps, batch_size):
    self._source = source
    self._steps = steps
    self._batch_size = batch_size

  def __getattr__(self, name):
    return getattr(self._source, name)

  def item(self, index, *, seed):
    step = index // self._batch_size + 1
    if step in self._steps:
      raise RuntimeError(f"a fault while reading for step {step}")
    return self._source.item(index, seed=seed)


class FaultyBatches:
  """Batches from an iterator; faults on the way."""

  def __init__(self, batches, faults, start_step):
    self._batches = batches
    self._faults = faults
    self._step = start_step

  def __iter__(self):
    return self

  def close(self):
    self._batches.close()

  def __next__(self):
    self._step += 1
    batch = next(self._batches)
    for kind, step, process, number in self._faults:
      if process not in (None, processes.index()):
        continue
      if kind == "every" and self._step >= step:
        time.sleep(number)
      elif step == self._step and kind != "worker":
        batch = self._happen(kind, number, batch)
    return batch

  def _happen(self, kind, number, batch):
    if kind in ("nan", "huge"):
      return _spoil(batch, np.nan if kind == "nan" else 1e4)
    if kind == "sleep":
      time.sleep(number)
    elif kind == "hang":
      ctypes.PyDLL(None).sleep(int(number))
    elif kind == "raise":
      raise RuntimeError(f"a fault at step {self._step}")
    elif kind == "forbid":
      os.seteuid(NOBODY)
    elif kind == "full":
      limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
      resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit))
    elif kind == "hoard":
      hoard()
    else:
      os.kill(
        os.getpid(), {"term": signal.SIGTERM, "kill": signal.SIGKILL}[kind]
      )
    return batch


def install(faults):
  honest = pipeline.training_batches

  def training_batches(source, *, start_step=0, **kwargs):
    steps = {step for kind, step, *_ in faults if kind == "worker"}
    source = FaultySource(source, steps, kwargs["batch_size"])
    batches = honest(source, start_step=start_step, **kwargs)
    return FaultyBatches(batches, faults, start_step)

  pipeline.training_batches = training_batches
  fit.Run = functools.partial(fit.Run, batches_ahead=0)  # faults at their step


if __name__ == "__main__":
  install(parse(sys.argv[1]))
  sys.exit(main.main(sys.argv[2:]))
