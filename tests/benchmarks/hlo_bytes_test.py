"""Bytes of a program written by hand, in the words of the TPU compiler."""

from tests.benchmarks import hlo_bytes

# A loop of three turns, each of which takes one row of a stack, adds it to a
# value in vector memory and puts the sum into the second stack in place.
SHORT = {
  "ALL": "(INTEGER, STACK, VALUE, SUMS)",
  "INTEGER": "s32[]{:T(128)}",
  "STACK": "bf16[3,5,130]{2,1,0:T(8,128)(2,1)}",
  "VALUE": "f32[5,130]{1,0:T(8,128)S(1)}",  # in vector memory
  "SUMS": "f32[3,5,130]{2,1,0:T(8,128)}",
  "CYCLES": 'backend_config={"window_config":{}},"estimated_cycles":',
}
PROGRAM = """HloModule jit_f

%taken (p0: s32[], p1: bf16[3,5,130], p2: f32[5,130]) -> f32[5,130] {
  %p1 = STACK parameter(1)
  %p0 = INTEGER parameter(0)
  %slice = bf16[1,5,130]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p1, %p0)
  %row = bf16[5,130]{1,0:T(8,128)(2,1)} bitcast(%slice)
  %p2 = VALUE parameter(2)
  ROOT %sum = VALUE add(%p2, %row)
}

%put (q0: f32[3,5,130], q1: f32[5,130], q2: s32[]) -> f32[3,5,130] {
  %q0 = SUMS parameter(0)
  %q1 = VALUE parameter(1)
  %q2 = INTEGER parameter(2)
  %part = f32[1,5,130]{2,1,0:T(8,128)} bitcast(%q1)
  ROOT %new = SUMS dynamic-update-slice(%q0, %part, %q2)
}

%body (c: ALL) -> ALL {
  %c = ALL parameter(0)
  %i = INTEGER get-tuple-element(%c), index=0
  %stack = STACK get-tuple-element(%c), index=1
  %value = VALUE get-tuple-element(%c), index=2
  %sums = SUMS get-tuple-element(%c), index=3
  %add.1 = VALUE fusion(%i, %stack, %value), calls=%taken, CYCLES"70"
  %put.1 = SUMS fusion(%sums, %add.1, %i), calls=%put, CYCLES"30"
  ROOT %t = ALL tuple(%i, %stack, %add.1, %put.1)
}

%condition (d: ALL) -> pred[] {
  %d = ALL parameter(0)
  %at = INTEGER get-tuple-element(%d), index=0
  %end = INTEGER constant(3)
  ROOT %less = pred[]{:T(512)S(1)} compare(%at, %end), direction=LT
}

ENTRY %main (a: ALL) -> f32[3,5,130] {
  %a = ALL parameter(0)
  %loop = ALL while(%a), condition=%condition, body=%body
  %out = SUMS get-tuple-element(%loop), index=3
  ROOT %copy = f32[3,5,130]{2,0,1:T(8,128)} copy(%out), CYCLES"9"
}
"""


def test_slices_loops_padding_and_vector_memory():
  text = PROGRAM
  for name, meaning in SHORT.items():
    text = text.replace(name, meaning)
  traffic = hlo_bytes.measure(text)
  # (5, 130) is laid out as (8, 256): the loop reads a row of bfloat16 and
  # writes one of float32, three times; the copy turns the axes of the whole.
  tile = 8 * 256
  copied = 3 * tile * 4 + 5 * tile * 4
  assert traffic.cycles == 3 * (70 + 30) + 9
  assert traffic.by_side[130] == (
    3 * (2 + 4) * tile + copied,
    3 * (2 + 4) * 5 * 130 + 2 * 3 * 5 * 130 * 4,
  )
