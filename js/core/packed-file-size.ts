// How many bytes every part of a packed file takes: docs/format.md as arithmetic.
import { quantizerOf } from "./quantizers";
import type { Plan, UncompressedTensor } from "./types";

export interface LayerBytes {
  readonly codes: number;
  readonly mask: number;
  readonly scales: number;
  readonly as_is: number;
}

/** Bytes of the five sections of a packed file. */
export interface SectionLengths {
  readonly counts: number;
  readonly codes: number;
  readonly mask: number;
  readonly scales: number;
  readonly rest: number;
}

const SECTIONS = ["counts", "codes", "mask", "scales", "rest"] as const;
const utf8 = new TextEncoder();

/** The bytes of a layer of n weights of `itemsize` bytes, `kept` of which survive. */
export function layerBytes(
  layer: { readonly n: number; readonly rows: number; readonly itemsize: number },
  plan: Plan,
  kept: number,
): LayerBytes {
  const { n, rows, itemsize } = layer;
  if (plan.keep) return { codes: 0, mask: 0, scales: 0, as_is: n * itemsize };
  const bits = Math.min(plan.bits, 8 * itemsize);
  const dense = isDense(n, kept, plan, bits);
  return {
    codes: Math.ceil(((dense ? n : kept) * bits) / 8),
    mask: dense ? 0 : Math.ceil(n / 8),
    scales: plan.bits > 8 ? 0 : quantizerOf(plan).sideBytes(plan, rows, n / rows),
    as_is: 0,
  };
}

/** Whether all n weights have a code (pruned ones that of zero), or only the kept ones beside a bit mask. */
function isDense(n: number, kept: number, plan: Plan, bits: number): boolean {
  return kept === n || (zeroOnGrid(plan, bits) && n * bits <= n + kept * bits);
}

/** Whether codes of so many bits can say zero: plain floats can, and linear grids except for one bit. */
function zeroOnGrid(plan: Plan, bits: number): boolean {
  return bits >= 16 || quantizerOf(plan).hasZero(bits);
}

/** How many of the zeros a layer came with count as pruned under a plan that prunes nothing itself (docs/estimate.md). */
export function zerosDropped(
  layer: { readonly n: number; readonly itemsize: number; readonly zeros: number; readonly negative_zeros: number },
  plan: Plan,
): number {
  const { n, itemsize, zeros, negative_zeros } = layer;
  if (plan.keep) return 0;
  const bits = Math.min(plan.bits, 8 * itemsize);
  const width = Math.max(bits, 2); // one bit beside a mask is never smaller, but ternary where most is zero
  const masked = n + (n - zeros) * width < n * width;
  if (masked || (bits < 16 && zeroOnGrid(plan, bits))) return zeros;
  return bits >= 16 ? zeros - negative_zeros : 0;
}

/** Bytes of the tensors that are never compressed: floats take at most `keptBits`, everything else its own width. */
export function uncompressedBytes(uncompressed: readonly UncompressedTensor[], keptBits: number): number {
  const bytes = uncompressed.map(({ nbytes, itemsize, floating }) => {
    return (nbytes / itemsize) * (floating ? Math.min(itemsize, keptBits / 8) : itemsize);
  });
  return bytes.reduce((sum, n) => sum + n, 0);
}

/** Bytes of one kept count in the file. */
export function countBytes(n: number): number {
  return n < 2 ** 32 ? 4 : 8;
}

/** The bytes of a packed file that are neither codes, mask, scales nor uncompressed tensors: length field, JSON, counts. */
export function headerBytes(recipeJson: string, structureLength: number, lengths: SectionLengths): number {
  // Only lengths matter: any eight digits stand for the checksum.
  const about = { format: "shrinkwidget", version: "3", crc32: "00000000", recipe: recipeJson, structure: "" };
  const header: Record<string, unknown> = { __metadata__: about };
  let end = 0;
  for (const section of SECTIONS) {
    const begin = end;
    end += lengths[section];
    header[section] = { dtype: "U8", shape: [end - begin], data_offsets: [begin, end] };
  }
  const text = utf8.encode(JSON.stringify(header)).length + structureLength;
  return 8 + 8 * Math.ceil(text / 8) + lengths.counts;
}
