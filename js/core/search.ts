// Small arithmetic on tables of numbers: binary search, sums, Python's rounding.

/** The first index in [from, to) whose value is ≥ x, or `to`. */
export function firstAtLeast(table: ArrayLike<number>, x: number, from = 0, to = table.length): number {
  let lo = from;
  let hi = to;
  while (lo < hi) {
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

/** The sum of numbers. */
export function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}
