// What pruning and rounding cost one layer, in squared error.

import { spreadOf } from "./lloyd-max-codebook";
import type { PruningOutcome } from "./pruning-estimate";
import { quantizerOf } from "./quantizers";
import { firstAtLeast } from "./search-round-and-sum";
import type { LayerSketch, Plan, Sketch } from "./types";
import { errorIntegral } from "./uniform-grid-error";

/** Σ (w − effective w)² of a layer. */
export function noiseOf(sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): number {
  const survivors = layer.energy - fate.prunedEnergy;
  // zero, or a mean, is among the values of every grid
  return fate.prunedEnergy + Math.min(rounding(sketch, layer, plan, fate, survivors), Math.max(survivors, 0));
}

function rounding(sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome, survivors: number): number {
  if (plan.keep || survivors <= 0 || plan.bits === 32) return 0;
  if (plan.bits === 16) return layer.itemsize === 2 ? 0 : halfNoise(layer, fate);
  return quantizerOf(plan).noise(sketch, layer, plan, fate, survivors);
}

/** Rounding to 16 bits. */
function halfNoise(layer: LayerSketch, fate: PruningOutcome): number {
  if (fate.curve) {
    const { count, lo, hi } = spreadOf(layer, fate.curve);
    const ends = (i: number) => [Math.abs(lo[i]), Math.abs(hi[i])].sort((a, b) => a - b);
    return layer.share * count.reduce((total, n, i) => total + n * halfError(layer, ends(i)[0], ends(i)[1]), 0);
  }
  const errors = halfErrorsTo(layer);
  const { bucket, lo, hi, count } = layer.magnitudes;
  const i = fate.cut ? firstAtLeast(bucket, fate.cut.bucket) : 0;
  const inside =
    fate.cut && bucket[i] === fate.cut.bucket ? fate.cut.fraction * count[i] * halfError(layer, lo[i], hi[i]) : 0;
  return layer.share * fate.density * (errors[errors.length - 1] - errors[i] - inside);
}

/**
 * The mean squared error of rounding a layer's magnitudes, uniform in a bucket, to its 16-bit form: ulp²/12 where the bucket
 * holds many of its numbers. Below float16's normal numbers its steps are wider than buckets.
 */
function halfError(layer: LayerSketch, lo: number, hi: number): number {
  if (hi === 0) return 0;
  // Mantissa bits, and the exponent of the smallest normal number.
  const [digits, least] = layer.half === "bfloat16" ? [7, -126] : [10, -14];
  // the magnitude is a bucket's edge, whose leading bit log2 finds exactly enough once nudged off it
  const exponent = Math.max(lo > 0 ? Math.floor(Math.log2(lo * (1 + 2 ** -30))) : least, least);
  const ulp = 2 ** (exponent - digits);
  if (hi - lo > ulp) return ulp ** 2 / 12;
  const end = Number.POSITIVE_INFINITY;
  return (errorIntegral(hi, ulp, end) - errorIntegral(lo, ulp, end)) / (hi - lo);
}

const halfErrors = new WeakMap<LayerSketch["magnitudes"], Float64Array>();

/** Running sums of `halfError` over a layer's magnitude buckets; made once. */
function halfErrorsTo(layer: LayerSketch): Float64Array {
  let sums = halfErrors.get(layer.magnitudes);
  if (!sums) {
    const { lo, hi, count } = layer.magnitudes;
    sums = new Float64Array(lo.length + 1);
    for (let i = 0; i < lo.length; i++) sums[i + 1] = sums[i] + count[i] * halfError(layer, lo[i], hi[i]);
    halfErrors.set(layer.magnitudes, sums);
  }
  return sums;
}
