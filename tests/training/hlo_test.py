"""Collectives read from the text of compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clap_jax.training import hlo

# Written by hand in the form that XLA prints.
# ruff: noqa: E501
TEXT = """HloModule step, num_partitions=8

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body.1 (state: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %state = (s32[], f32[16,4]{1,0}) parameter(0)
  %x = f32[16,4]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %part = f32[4,4]{1,0} reduce-scatter(%x), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add.1
  %whole = f32[16,4]{1,0} all-gather(%part), replica_groups=[2,4]<=[8], dimensions={0}
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %next = (s32[], f32[16,4]{1,0}) tuple(%i, %whole)
}

%condition.1 (state.1: (s32[], f32[16,4])) -> pred[] {
  %state.1 = (s32[], f32[16,4]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(12), metadata={op_name="x"}
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (x: f32[16,4], y: bf16[6]) -> f32[16,4] {
  %x.1 = f32[16,4]{1,0} parameter(0)
  %y.1 = bf16[6]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[16,4]{1,0}) tuple(%zero, %x.1)
  %loop = (s32[], f32[16,4]{1,0}) while(%start), condition=%condition.1, body=%body.1
  %sums = bf16[6]{0} all-reduce-start(%y.1), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add.1
  %sum.1 = bf16[6]{0} all-reduce-done(%sums)
  %pair = (bf16[6]{0}, f32[2,3]{1,0}) all-reduce(%sum.1, %z), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add.1
  %both = (bf16[3]{0}, bf16[6]{0}) all-gather-start(%part.1), replica_groups=[4,2]<=[8], dimensions={0}
  %gathered = bf16[6]{0} all-gather-done(%both)
  %sent = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%v), source_target_pairs={{0,1}}
  %moved = bf16[6]{0} collective-permute(%sum.1), source_target_pairs={{0,1},{1,0}}
  ROOT %result = f32[16,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_loops_multiply_and_starts_count_once():
  array = 16 * 4 * 4
  assert set(hlo.collectives(TEXT, num_devices=8)) == {
    hlo.Collective("reduce-scatter", 4, 12, 12 * array * 3 // 4),
    hlo.Collective("all-gather", 4, 12, 12 * array * 3 // 4),
    hlo.Collective("all-gather", 2, 1, 6),
    hlo.Collective("all-reduce", 2, 2, 12 + (12 + 24)),
    hlo.Collective("collective-permute", 8, 2, 12 + 20),
  }


SPREAD = """HloModule step, num_partitions=8

%start (a: f32[4]) -> f32[16] {
  %a = f32[4]{0} parameter(0)
  ROOT %g = f32[16]{0} all-gather(%a), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, metadata={op_name="jit(step)/dot" stack_frame_id=3}
}

%end (b: f32[4]) -> f32[16] {
  %b = f32[4]{0} parameter(0)
  ROOT %h = f32[16]{0} all-gather(%b), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, metadata={op_name="jit(step)/dot" stack_frame_id=3}
}

ENTRY %main (x: f32[4]) -> f32[16] {
  %x = f32[4]{0} parameter(0)
  %first = f32[16]{0} fusion(%x), kind=kCustom, calls=%start
  %second = f32[16]{0} fusion(%x), kind=kCustom, calls=%end
  %part = f32[8]{0} all-gather(%x), channel_id=8, replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([8]<=[8]) {'axis_1':(2)2}, dimensions={0}
  ROOT %all = f32[16]{0} all-reduce(%second), channel_id=9, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}, to_apply=%add
}
"""


def test_what_is_spread_over_fusions_counts_once():
  assert set(hlo.collectives(SPREAD, num_devices=8)) == {
    hlo.Collective("all-gather", 4, 1, 16 * 4 * 3 // 4),
    hlo.Collective("all-gather", 2, 1, 8 * 4 // 2),
    hlo.Collective("all-reduce", 8, 1, 16 * 4 * 2 * 7 // 8),
  }


def test_one_channel_for_several_collectives():
  """As those of shard_map have it; equal ones too are sent each."""
  line = "all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add"
  text = f"""HloModule step, num_partitions=2

%all-reduce-scatter.1 (y: f32[64]) -> f32[32] {{
  %y = f32[64]{{0}} parameter(0)
  %s = f32[64]{{0}} all-reduce(%y), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add
  ROOT %half = f32[32]{{0}} slice(%s), slice={{[0:32]}}
}}

%all-reduce-scatter.2 (y: f32[64]) -> f32[32] {{
  %y = f32[64]{{0}} parameter(0)
  %s = f32[64]{{0}} all-reduce(%y), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add
  ROOT %half = f32[32]{{0}} slice(%s), slice={{[0:32]}}
}}

ENTRY %main (x: f32[16], z: f32[64]) -> f32[16] {{
  %x = f32[16]{{0}} parameter(0)
  %z = f32[64]{{0}} parameter(1)
  %one = f32[16]{{0}} {line}
  %two = f32[16]{{0}} {line}
  %c = f32[32]{{0}} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.1
  %d = f32[32]{{0}} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %more = (f32[16]{{0}}, f32[8]{{0}}) all-reduce(%one, %two), channel_id=1, replica_groups={{{{0,1}}}}, to_apply=%add
}}
"""
  assert set(hlo.collectives(text, num_devices=2)) == {
    hlo.Collective("all-reduce", 2, 3, (16 + 16 + 24) * 4),
    hlo.Collective("reduce-scatter", 2, 2, 2 * 64 * 4 // 2),
  }


DCN = """HloModule step, num_partitions=16

ENTRY %main (x: f32[64,512]) -> f32[64,512] {
  %x = f32[64,512]{1,0} parameter(0)
  %token = token[] after-all()
  %send = (f32[64,512]{1,0}, u32[], token[]) send(%x, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[64,512]{1,0}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %gather = (bf16[8]{0}, u32[], token[]) send(%y, %token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
  %print = (f32[2]{0}, u32[], token[]) send(%z, %token), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="callback"}
  %sum = f32[64,512]{1,0} all-reduce(%x), replica_groups=[4,4]<=[16], to_apply=%add
  ROOT %out = f32[64,512]{1,0} get-tuple-element(%recv), index=0
}
"""


def test_transfers_between_slices_count_apart():
  array = 64 * 512 * 4
  assert set(hlo.collectives(DCN, num_devices=16, num_slices=4)) == {
    hlo.Collective("all-reduce", 4, 1, array * 2 * 3 // 4, "dcn"),
    hlo.Collective("all-gather", 4, 1, 8 * 2 * 3, "dcn"),
    hlo.Collective("all-reduce", 4, 1, array * 2 * 3 // 4, "ici"),
  }
  with pytest.raises(ValueError, match="BROADCAST"):
    hlo.collectives(
      DCN.replace("ALL_GATHER", "BROADCAST"), num_devices=16, num_slices=4
    )


def test_a_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.collectives("HloModule nothing", num_devices=1)


def test_of_a_program_compiled_here():
  """Rows split over 8 devices, a mean over all of them, 5 turns."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))

  def step(x, weights):
    def turn(x, w):
      return x - jnp.mean(x @ w, axis=0), None

    return jax.lax.scan(turn, x, weights)[0]

  text = (
    jax.jit(step, in_shardings=(rows, None), out_shardings=rows)
    .lower(jnp.zeros((64, 32)), jnp.zeros((5, 32, 32)))
    .compile()
    .as_text()
  )
  (row,) = hlo.collectives(text, num_devices=8)
  assert (row.kind, row.group_size, row.calls) == ("all-reduce", 8, 5)
  assert row.sent_bytes == round(5 * 32 * 4 * 2 * 7 / 8)
