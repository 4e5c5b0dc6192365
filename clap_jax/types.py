"""Axis legend, batch types and unit conventions shared by every layer.

Axis letters used in shapes everywhere:
  b batch, t time, s spatial tokens, l text tokens, d width, h heads,
  q queries, c classes, p pyramid points, n segments, k kept.
Unless a name says otherwise, segments are [start, end) in seconds, a `*_mask`
is boolean and True means valid, and padding stands at the end.

NamedTuples are pytrees, so the batches below pass through jax unchanged while
this module needs NumPy only. Each array is annotated with its type and axes;
compiling ahead makes shapes of them (trainers/abstract.py).
"""

from typing import Annotated, Any, NamedTuple

Array = Any  # a NumPy or a JAX array
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
  """Metadata of clips for the mask rules of the contrastive loss."""

  # Equal text has an equal id, -1 without text.
  text_id: Annotated[Array, "int32 b"]
  class_id: Annotated[Array, "int32 b"]  # -1 for background
  video_id: Annotated[Array, "int32 b"]
  clip_start_sec: Annotated[Array, "float32 b"]
  clip_end_sec: Annotated[Array, "float32 b"]
  caption_start_sec: Annotated[Array, "float32 b"]  # the caption's own interval
  caption_end_sec: Annotated[Array, "float32 b"]
  is_action: Annotated[Array, "bool b"]  # False for a background clip
  has_text: Annotated[Array, "bool b"]
  # The text is a fixed background sentence.
  generic_text: Annotated[Array, "bool b"]
  valid: Annotated[Array, "bool b"]  # False for padding
  # In [0, 1]; how much of the clip its action covers: 1 inside, 0 for
  # background, between where a clip crosses a boundary.
  action_share: Annotated[Array, "float32 b"]


class ClipBatch(NamedTuple):
  """Clips with their texts, for pre-training."""

  frames: Annotated[Array, "uint8 b t height width 3"]
  tokens: Annotated[Array, "int32 b l"]
  token_mask: Annotated[Array, "bool b l"]
  pairs: PairMetadata


class LocalizationBatch(NamedTuple):
  """Feature sequences with labelled segments, in grid units."""

  features: Annotated[Array, "float32 b t d"]
  mask: Annotated[Array, "bool b t"]
  # Grid units: i is the middle of snippet i.
  segments: Annotated[Array, "float32 b n 2"]
  labels: Annotated[Array, "int32 b n"]
  segment_mask: Annotated[Array, "bool b n"]
  # Position in the source, -1 for padding.
  video_index: Annotated[Array, "int32 b"]


class ClipSequenceBatch(NamedTuple):
  """Videos as sequences of clips with labelled segments, in grid units."""

  clips: Annotated[Array, "uint8 b n t height width 3"]
  mask: Annotated[Array, "bool b n"]
  # Grid units: i is the middle of clip i.
  segments: Annotated[Array, "float32 b m 2"]
  labels: Annotated[Array, "int32 b m"]
  segment_mask: Annotated[Array, "bool b m"]
  # Position in the source, -1 for padding.
  video_index: Annotated[Array, "int32 b"]


class GroundingBatch(NamedTuple):
  """Feature sequences with several text queries each, in grid units.

  Some queries of a video are drawn from other videos: they are valid, have no
  moment here, and `is_absent` says so.
  """

  features: Annotated[Array, "float32 b t d"]
  mask: Annotated[Array, "bool b t"]
  # Token vectors of a frozen text tower.
  query: Annotated[Array, "float32 b q l e"]
  query_mask: Annotated[Array, "bool b q l"]
  # Grid units: all moments of a query.
  segments: Annotated[Array, "float32 b q n 2"]
  segment_mask: Annotated[Array, "bool b q n"]  # False for an absent query
  # In [0, 1]: how well a snippet answers.
  saliency: Annotated[Array, "float32 b q t"]
  is_absent: Annotated[Array, "bool b q"]  # the video lacks what the query says
  valid: Annotated[Array, "bool b q"]
  # Position in the source, -1 for padding.
  query_index: Annotated[Array, "int32 b q"]


class EpisodeBatch(NamedTuple):
  """Query videos with the support of n classes ("ways"), k videos each.

  Masks may have holes: what a learner must not see is invalid.
  """

  query: Annotated[Array, "float32 b t d"]  # encoded by a matcher: its levels
  query_mask: Annotated[Array, "bool b t"]
  # Cosines with the ways' names, and with a sentence that says "background".
  query_text: Annotated[Array, "float32 b t c"]
  support: Annotated[Array, "float32 b n k t d"]
  support_mask: Annotated[Array, "bool b n k t"]
  # Inside a segment of the way.
  support_action: Annotated[Array, "bool b n k t"]
  support_text: Annotated[Array, "float32 b n k t c"]
  # Grid units; none outside training.
  segments: Annotated[Array, "float32 b s 2"]
  labels: Annotated[Array, "int32 b s"]  # positions among the ways
  segment_mask: Annotated[Array, "bool b s"]
  # Position in the source, -1 for padding.
  episode_index: Annotated[Array, "int32 b"]


class Detections(NamedTuple):
  """Scored segments of a batch of videos or queries, best first, padded."""

  segments: Array  # float32 (b, k, 2), grid units
  scores: Array  # float32 (b, k)
  labels: Array  # int32 (b, k); 0 for grounding
  mask: Array  # bool (b, k)
