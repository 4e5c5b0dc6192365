"""Axis legend, batch types and unit conventions shared by every layer.

Axis letters used in shapes everywhere:
  b batch, t time, s spatial tokens, l text tokens, d width, h heads,
  q queries, c classes, p pyramid points, n segments, k kept.
Unless a name says otherwise, segments are [start, end) in seconds, a `*_mask`
is boolean and True means valid, and padding stands at the end.

NamedTuples are pytrees, so the batches below pass through jax unchanged while
this module needs NumPy only.
"""

from typing import Any, NamedTuple

Array = Any  # a NumPy or a JAX array; the shape stands in the comment
Device = Any  # a jax.Device, which is no class that a type checker can see

# Name of an axis of activations or parameters -> axes of the mesh that split it
# (training/mesh.py). What is not here is whole, but for the parameters, which
# `fsdp` splits along one axis more.
MESH_AXES = {
  "batch": ("data", "fsdp"),
  "heads": ("tensor",),  # of attention; also their concatenation
  "hidden": ("tensor",),  # units between the two layers of an MLP
}


class PairMetadata(NamedTuple):
  """Metadata of clips for the mask rules of the contrastive loss. All (b,)."""

  text_id: Array  # int32; equal text has an equal id, -1 without text
  class_id: Array  # int32; -1 for background
  video_id: Array  # int32
  clip_start_sec: Array  # float32
  clip_end_sec: Array  # float32
  caption_start_sec: Array  # float32; the caption's own interval
  caption_end_sec: Array  # float32
  is_action: Array  # bool; False for a background clip
  has_text: Array  # bool
  generic_text: Array  # bool; the text is a fixed background sentence
  valid: Array  # bool; False for padding
  # float32 in [0, 1]; how much of the clip its action covers: 1 inside, 0 for
  # background, between where a clip crosses a boundary.
  action_share: Array


class ClipBatch(NamedTuple):
  """Clips with their texts, for pre-training."""

  frames: Array  # uint8 (b, t, height, width, 3)
  tokens: Array  # int32 (b, l)
  token_mask: Array  # bool (b, l)
  pairs: PairMetadata


class LocalizationBatch(NamedTuple):
  """Feature sequences with labelled segments, in grid units."""

  features: Array  # float32 (b, t, d)
  mask: Array  # bool (b, t)
  segments: Array  # float32 (b, n, 2), grid units: i is the middle of snippet i
  labels: Array  # int32 (b, n)
  segment_mask: Array  # bool (b, n)
  video_index: Array  # int32 (b,); position in the source, -1 for padding


class ClipSequenceBatch(NamedTuple):
  """Videos as sequences of clips with labelled segments, in grid units."""

  clips: Array  # uint8 (b, n, t, height, width, 3)
  mask: Array  # bool (b, n)
  segments: Array  # float32 (b, m, 2), grid units: i is the middle of clip i
  labels: Array  # int32 (b, m)
  segment_mask: Array  # bool (b, m)
  video_index: Array  # int32 (b,); position in the source, -1 for padding


class GroundingBatch(NamedTuple):
  """Feature sequences with several text queries each, in grid units.

  Some queries of a video are drawn from other videos: they are valid, have no
  moment here, and `is_absent` says so.
  """

  features: Array  # float32 (b, t, d)
  mask: Array  # bool (b, t)
  query: Array  # float32 (b, q, l, e): token vectors of a frozen text tower
  query_mask: Array  # bool (b, q, l)
  segments: Array  # float32 (b, q, n, 2), grid units: all moments of a query
  segment_mask: Array  # bool (b, q, n); False for an absent query
  saliency: Array  # float32 (b, q, t) in [0, 1]: how well a snippet answers
  is_absent: Array  # bool (b, q): the video lacks what the query says
  valid: Array  # bool (b, q)
  query_index: Array  # int32 (b, q); position in the source, -1 for padding


class EpisodeBatch(NamedTuple):
  """Query videos with the support of n classes ("ways"), k videos each.

  Masks may have holes: what a learner must not see is invalid.
  """

  query: Array  # float32 (b, t, d); encoded by a matcher: its levels
  query_mask: Array  # bool (b, t)
  query_text: Array  # float32 (b, t, n + 1): cosines with the ways' names, and
  #   with a sentence that says "background"
  support: Array  # float32 (b, n, k, t, d)
  support_mask: Array  # bool (b, n, k, t)
  support_action: Array  # bool (b, n, k, t): inside a segment of the way
  support_text: Array  # float32 (b, n, k, t, n + 1)
  segments: Array  # float32 (b, s, 2), grid units; none outside training
  labels: Array  # int32 (b, s): positions among the ways
  segment_mask: Array  # bool (b, s)
  episode_index: Array  # int32 (b,); position in the source, -1 for padding


class Detections(NamedTuple):
  """Scored segments of a batch of videos or queries, best first, padded."""

  segments: Array  # float32 (b, k, 2), grid units
  scores: Array  # float32 (b, k)
  labels: Array  # int32 (b, k); 0 for grounding
  mask: Array  # bool (b, k)
