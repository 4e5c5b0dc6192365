"""The configs of public benchmarks at full size, traced and not run."""

import importlib

import jax
import numpy as np
import pytest

from clap_jax.trainers import abstract, localization, registry


@pytest.mark.parametrize(
  ("name", "num_classes", "width"),
  [
    ("localization_activitynet", 200, 512),
    ("localization_thumos", 20, 2048),
    ("proposals_activitynet", 200, 512),
    ("proposals_thumos", 20, 2048),
    ("proposals_gtad:anet_tsp", 200, 512),
    ("proposals_gtad:thumos_tsn", 20, 2048),
  ],
)
def test_a_step_and_its_gradient_have_shapes(name, num_classes, width):
  name, _, recipe = name.partition(":")
  config = importlib.import_module(f"configs.{name}").get_config(recipe)
  config = registry.resolve(config)
  facts = abstract.DataFacts(
    num_classes=num_classes, feature_width=width, max_segments=30
  )
  run = localization.abstract_run(config, facts)
  params = jax.eval_shape(run.task.init, jax.random.key(0))
  (loss, _), gradient = jax.eval_shape(
    jax.value_and_grad(run.task.loss, has_aux=True),
    params,
    run.batch,
    jax.random.key(1),
  )
  assert loss.shape == ()
  assert jax.tree.structure(gradient) == jax.tree.structure(params)
  size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
  assert 1e6 < size < 5e7
  found = jax.eval_shape(run.task.predict, params, run.batch)
  kept = (config.data.batch_size, config.decode.num_kept, 2)
  assert found.segments.shape == kept
