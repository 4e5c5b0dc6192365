"""G-TAD's and BMN's networks and proposals in NumPy loops, as published.

Layouts are PyTorch's: sequences (channels, time), maps (channels, duration,
start), kernels (outputs, inputs per group, ...). `weights_of` makes such
kernels of our parameters, so that both compute the same function.
"""

import math

import numpy as np


def conv_1d(x, kernel, bias, *, groups=1):
  """Convolution over time, zeros beyond the ends."""
  outputs, inputs, size = kernel.shape
  padded = np.pad(x, ((0, 0), (size // 2, size // 2)))
  per_group = outputs // groups
  y = np.zeros((outputs, x.shape[1]))
  for out in range(outputs):
    first = out // per_group * inputs
    for t in range(x.shape[1]):
      view = padded[first : first + inputs, t : t + size]
      y[out, t] = np.sum(view * kernel[out]) + bias[out]
  return y


def relu(x):
  return np.maximum(x, 0)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def neighbours(x, count):
  """Numbers (time, count) of the steps nearest to each."""
  distance = ((x[:, :, None] - x[:, None]) ** 2).sum(0)
  return np.argsort(distance, axis=1, kind="stable")[:, :count]


def gcnext(x, weights, *, groups, count):
  y = relu(conv_1d(x, *weights["time_in"]))
  y = relu(conv_1d(y, *weights["time_mix"], groups=groups))
  in_time = conv_1d(y, *weights["time_out"])
  near = neighbours(x, count)
  parts = []
  for k in range(count):
    y = np.concatenate([x[:, near[:, k]], x])
    y = relu(conv_1d(y, *weights["space_in"]))
    y = relu(conv_1d(y, *weights["space_mix"], groups=groups))
    parts.append(conv_1d(y, *weights["space_out"]))
  return relu(in_time + x + np.max(parts, axis=0))


def align(x, low, high, bins):
  """RoIAlign in one dimension: (channels, bins)."""
  length, last = max(high - low, 1.0), x.shape[1] - 1
  count = math.ceil(length / bins)
  read = np.zeros((len(x), bins))
  for b in range(bins):
    for sample in range(count):
      t = low + b * length / bins + (sample + 0.5) * length / bins / count
      if t < -1 or t > x.shape[1]:
        continue
      t = min(max(t, 0.0), last)
      left = int(t)
      right = min(left + 1, last)
      read[:, b] += x[:, left] * (1 - t + left) + x[:, right] * (t - left)
  return read / count


def sub_graphs(x, *, longest, bins, context_bins, count):
  """Map (channels * bins of both, longest, time); bins vary fastest."""
  context = x[:, neighbours(x, count)].mean(-1)
  total = x.shape[1]
  columns = np.zeros((longest, total), object)
  for start in range(total):
    for index in range(longest):
      low = high = 0.0
      if start + index < total:
        margin = 0.5 * (index + 1)
        low, high = start - margin, start + index + margin
      columns[index, start] = np.concatenate(
        [align(x, low, high, bins), align(context, low, high, context_bins)],
        axis=1,
      ).ravel()
  stacked = np.array([list(row) for row in columns])
  return np.moveaxis(stacked, -1, 0)


def conv_2d(x, kernel, bias):
  """Convolution over a map, zeros beyond it."""
  outputs, _, size, _ = kernel.shape
  half = size // 2
  padded = np.pad(x, ((0, 0), (half, half), (half, half)))
  y = np.zeros((outputs, *x.shape[1:]))
  for row in range(x.shape[1]):
    for column in range(x.shape[2]):
      view = padded[:, row : row + size, column : column + size]
      y[:, row, column] = np.tensordot(kernel, view, 3) + bias
  return y


def forward(features, weights, config):
  """(starts, ends, map of two numbers) of features (channels, time)."""
  options = {"groups": config.num_groups, "count": config.num_neighbours}
  x = relu(conv_1d(features, *weights["project"], groups=4))
  x = gcnext(x, weights["base_1"], **options)
  sides = [
    sigmoid(
      conv_1d(gcnext(x, weights[side], **options), *weights[f"{side}_out"])
    )[0]
    for side in ("start", "end")
  ]
  x = gcnext(x, weights["base_2"], **options)
  y = sub_graphs(
    x,
    longest=config.max_duration,
    bins=config.num_bins,
    context_bins=config.num_context_bins,
    count=config.num_neighbours,
  )
  for kernel, bias in weights["map"]:
    y = relu(conv_2d(y, kernel, bias))
  return *sides, sigmoid(conv_2d(y, *weights["out"]))


def sampled(x, low, high, bins):
  """BMN's reading of a span: (channels, bins), three samples to each."""
  total, count = x.shape[1], 3 * bins
  read = np.zeros((len(x), bins))
  for index in range(count):
    position = low + (high - low) / (count - 1) * index
    share, down = math.modf(position)
    down, up = int(down), math.ceil(position)
    if 0 <= down < total:
      read[:, index // 3] += (1 - share) * x[:, down]
    if 0 <= up < total:
      read[:, index // 3] += share * x[:, up]
  return read / 3


def bmn_forward(features, weights, config):
  """(starts, ends, map of two numbers), by BMN's network."""
  x = relu(conv_1d(features, *weights["project"], groups=4))
  x = relu(conv_1d(x, *weights["base_1"], groups=4))
  sides = []
  for side in ("start", "end"):
    y = relu(conv_1d(x, *weights[side], groups=4))
    sides.append(sigmoid(conv_1d(y, *weights[f"{side}_out"]))[0])
  x = relu(conv_1d(x, *weights["base_2"]))
  total = x.shape[1]
  columns = np.zeros((len(x) * config.num_bins, config.max_duration, total))
  for start in range(total):
    for index in range(config.max_duration):
      if start + index < total:
        margin = 0.5 * (index + 1)
        read = sampled(
          x, start - margin, start + index + margin, config.num_bins
        )
        columns[:, index, start] = read.ravel()
  y = columns
  for kernel, bias in weights["map"]:
    y = relu(conv_2d(y, kernel, bias))
  return *sides, sigmoid(conv_2d(y, *weights["out"]))


def weights_of(params, config):
  """Kernels in PyTorch's layouts, of the parameters of GtadLocalizer."""

  def dense(layer):
    return np.asarray(layer["kernel"]).T[..., None], np.asarray(layer["bias"])

  def grouped(layer, size):
    kernel = np.asarray(layer["kernel"])  # (size * inputs, groups, outputs)
    rows, groups, outputs = kernel.shape
    kernel = kernel.reshape(size, rows // size, groups, outputs)
    kernel = kernel.transpose(2, 3, 1, 0)  # (groups, outputs, inputs, size)
    kernel = kernel.reshape(groups * outputs, rows // size, size)
    return kernel, np.asarray(layer["bias"])

  def block(layers):
    return {
      name: grouped(layer, 3 if name == "time_mix" else 1)
      if name.endswith("mix")
      else dense(layer)
      for name, layer in layers.items()
    }

  make = block
  if config.network == "convolution":
    make = lambda layer: grouped(layer, 3)  # noqa: E731
  made = {
    name: make(params[name]) for name in ("base_1", "base_2", "start", "end")
  }
  made["project"] = grouped(params["project"], 3)
  for side in ("start", "end"):
    made[f"{side}_out"] = dense(params[f"{side}_out"])
  head, bins = params["map_head"], {"read_own": config.num_bins}
  if config.num_context_bins:
    bins["read_context"] = config.num_context_bins
  width, first = config.width, config.map_widths[0]
  read = np.concatenate(
    [
      np.asarray(head[name]["kernel"]).reshape(width, count, first)
      for name, count in bins.items()
    ],
    axis=1,
  )
  made["map"] = [
    (read.reshape(-1, first).T[..., None, None], np.asarray(head["read_bias"]))
  ]
  for i in range(1, len(config.map_widths)):
    layer = head[f"map_{i}"]
    kernel = np.asarray(layer["kernel"])
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel
    made["map"].append(
      (kernel.transpose(3, 2, 0, 1), np.asarray(layer["bias"]))
    )
  kernel, bias = dense(head["out"])
  made["out"] = kernel[..., None], bias
  return made


def proposals(
  starts,
  ends,
  scores,
  *,
  longest,
  is_filtered,
  has_boundary_scores=False,
  max_steps=0,
):
  """(start, end, score), in shares of the sequence, as public code lists them.

  Args:
    starts: probability of each step to be a start.
    ends: likewise.
    scores: map (2, longest, time).
    longest: durations of the map.
    is_filtered: whether only peaks of `starts` and `ends` count.
    has_boundary_scores: whether scores have those of both ends as factors.
    max_steps: of a proposal; 0 for any.
  """
  total = len(starts)

  def peaks(values, always):
    kept = [values[i] > 0.5 * max(values) for i in range(total)]
    kept[always] = True
    for i in range(1, total - 1):
      kept[i] |= values[i] > values[i - 1] and values[i] > values[i + 1]
    return kept

  begins, stops = peaks(starts, 0), peaks(ends, total - 1)
  found = []
  for index in range(longest):
    for start in range(total):
      end = start + index + 1
      if end >= total or (max_steps and index + 1 > max_steps):
        continue
      if is_filtered and not (begins[start] and stops[end]):
        continue
      score = scores[0, index, start] * scores[1, index, start]
      if has_boundary_scores:
        score *= starts[start] * ends[end]
      found.append((start / total, end / total, score))
  return sorted(found, key=lambda row: -row[2])


def soft_nms(rows, *, sigma, num_kept, decay_iou=(0.0, 0.0)):
  """Gaussian soft-NMS of rows (start, end, score)."""
  rows, kept = [list(row) for row in rows], []
  while rows and len(kept) < num_kept:
    best = max(rows, key=lambda row: row[2])
    rows.remove(best)
    kept.append(tuple(best))
    for row in rows:
      shared = min(best[1], row[1]) - max(best[0], row[0])
      if shared > 0:
        iou = shared / (max(best[1], row[1]) - min(best[0], row[0]))
        low, high = decay_iou
        if iou > low + (high - low) * (best[1] - best[0]):
          row[2] *= math.exp(-(iou**2) / sigma)
  return kept
