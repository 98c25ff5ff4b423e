// Counting in tables of weights by value.
import { firstAtLeast } from "./search-round-and-sum";

/** Ascending stretches of values, evenly filled; `countTo[i]` sums over those before i. */
export interface CumulativeHistogram {
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly count: Float64Array;
  readonly countTo: Float64Array;
}

/** How many weights lie below x, each bucket's uniformly spread. */
export function weightsBelow({ lo, hi, count, countTo }: CumulativeHistogram, x: number): number {
  const i = firstAtLeast(hi, x);
  if (i >= lo.length || x <= lo[i]) return countTo[i];
  return countTo[i] + (count[i] * (x - lo[i])) / (hi[i] - lo[i]);
}
