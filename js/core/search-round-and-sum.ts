// Small arithmetic on tables of numbers: binary search, sums, Python's rounding.

/** The first index in [from, to) whose value is ≥ x, or `to`. */
export function firstAtLeast(table: ArrayLike<number>, x: number, from = 0, to = table.length): number {
  let lo = from;
  let hi = to;
  while (lo < hi) {
    // `>>>` and not `>>`: a sum beyond 2³¹ would turn negative.
    const middle = (lo + hi) >>> 1;
    if (table[middle] < x) lo = middle + 1;
    else hi = middle;
  }
  return lo;
}

/** The same, quick where the answer is not far beyond `from`: steps double until they are past it. */
export function firstAtLeastNear(table: ArrayLike<number>, x: number, from: number, to = table.length): number {
  let step = 1;
  let lo = from;
  while (lo + step <= to && table[lo + step - 1] < x) {
    lo += step;
    step *= 2;
  }
  return firstAtLeast(table, x, lo, Math.min(to, lo + step));
}

/** The same, quick where the answer is close to `guess`, on either side. */
export function firstAtLeastAround(table: ArrayLike<number>, x: number, guess: number): number {
  if (guess >= table.length || table[guess] >= x) {
    let hi = Math.min(guess, table.length);
    let step = 1;
    while (hi >= step && table[hi - step] >= x) {
      hi -= step;
      step *= 2;
    }
    return firstAtLeast(table, x, Math.max(0, hi - step), hi);
  }
  return firstAtLeastNear(table, x, guess);
}

/** Python's `round`: to the nearest whole number, halves to the even one. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

/** The sum of numbers: in four sums, since an addition that need not wait for the one before takes a quarter of the time. */
export function sum(values: ArrayLike<number>): number {
  const { length } = values;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < length; i += 4) {
    s0 += values[i];
    s1 += values[i + 1];
    s2 += values[i + 2];
    s3 += values[i + 3];
  }
  for (; i < length; i++) s0 += values[i];
  return s0 + s1 + (s2 + s3);
}

/** Σ a·b from an index on, summed in the same way. */
export function dot(a: Float64Array, b: Float64Array, from = 0): number {
  const { length } = a;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = from;
  for (; i + 3 < length; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < length; i++) s0 += a[i] * b[i];
  return s0 + s1 + (s2 + s3);
}
