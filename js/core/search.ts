// Binary search in ascending tables.

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

/** Python's `round`: to the nearest whole number, halves to the even one. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}
