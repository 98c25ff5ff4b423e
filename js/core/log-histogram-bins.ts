// The relative bins of a sketch: 16 to an octave below a group's largest magnitude (see docs/estimate.md).

export const BINS = 162;
export const RANGES = 64;
/** Nodes of the ratio between the smaller and the larger end of a group: 0, 1/8, … 1. */
export const RATIOS = 9;
/** The last bin: the single point u = 1. The bins before it are intervals. */
export const ATOM = BINS - 1;

const SMALLEST = 2 ** -10;
const PER_OCTAVE = 16;

/** Lower edges, in units of the group's range. */
export const LOW = Float64Array.from({ length: BINS }, (_, bin) => (bin === 0 ? 0 : edge(bin - 1)));
/** Upper edges. */
export const HIGH = Float64Array.from({ length: BINS }, (_, bin) => (bin === ATOM ? 1 : edge(bin)));

function edge(step: number): number {
  return SMALLEST * 2 ** Math.floor(step / PER_OCTAVE) * (1 + (step % PER_OCTAVE) / PER_OCTAVE);
}

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);
double[0] = SMALLEST;
// The top 16 bits of a double order positive numbers as they are, 16 to an octave: the very bins, without a logarithm.
// Little-endian, as every browser's machine is.
const FIRST = words[1] >>> 16; // sign, exponent and 4 bits of mantissa: the same 16 bins to an octave

/** The bin of a relative magnitude u ≥ 0; anything from 1 on is in the atom. */
export function binOf(u: number): number {
  if (u >= 1) return ATOM;
  if (u < SMALLEST) return 0;
  double[0] = u;
  return (words[1] >>> 16) - FIRST + 1;
}
