// Where axes put their ticks, and which sizes are worth a mark (the twin of shrinkwidget/figures/ticks_and_size_marks.py).

const NICE = [1, 2, 2.5, 5, 10];

/** The largest of 1, 2, 2.5, 5 × 10ⁿ that is at most `value`. */
export function niceBelow(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  let best = power;
  for (const step of NICE) if (step * power <= value * (1 + 1e-9)) best = step * power;
  return best;
}

/** Ticks of an axis from -span to span, zero always among them: at most `perSide` on each side. */
export function mirroredTicks(span: number, perSide: number): number[] {
  if (!(span > 0)) return [0];
  let step = niceBelow(span / perSide);
  while (Math.floor(span / step + 1e-9) > perSide) step = nextNice(step);
  const sides = Math.floor(span / step + 1e-9);
  return Array.from({ length: 2 * sides + 1 }, (_, i) => tidy((i - sides) * step));
}

/** Ticks between two values at a round step, about `wanted` of them. */
export function linearTicks(low: number, high: number, wanted: number): number[] {
  if (!(high > low)) return [low];
  let step = niceBelow((high - low) / Math.max(1, wanted));
  while (Math.floor(high / step) - Math.ceil(low / step) + 1 > wanted + 1) step = nextNice(step);
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(tidy(i * step));
  return ticks;
}

/** Whole ticks, two more than wanted at most: a label that reads 2.5 epochs would say nothing. */
export function wholeTicks(low: number, high: number, wanted: number): number[] {
  let step = 1;
  while (Math.floor(high / step) - Math.ceil(low / step) + 1 > Math.max(1, wanted) + 2) {
    step = nextNice(step) % 1 === 0 ? nextNice(step) : nextNice(nextNice(step));
  }
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * Ticks of a logarithmic axis, two at least: 1, 2, 5 of every decade if at most `most`, else 1 and 3, else 1; of many
 * decades only some.
 */
export function logTicks(low: number, high: number, most: number): number[] {
  const choices = [[1, 2, 5], [1, 3], [1]].map((digits) => decadeTicks(low, high, digits));
  const fitting = choices.find((ticks) => ticks.length >= 2 && ticks.length <= most);
  if (fitting) return fitting;
  const decades = choices[2];
  const every = Math.ceil(decades.length / Math.max(2, most));
  if (decades.length > 2) return decades.filter((_, i) => i % every === 0);
  const fewest = choices.findLast((ticks) => ticks.length >= 2);
  return fewest ? [fewest[0], fewest[fewest.length - 1]] : linearTicks(low, high, most);
}

function decadeTicks(low: number, high: number, digits: number[]): number[] {
  const ticks: number[] = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const digit of digits) if (digit * power >= low && digit * power <= high) ticks.push(digit * power);
  }
  return ticks;
}

function nextNice(step: number): number {
  const power = 10 ** Math.floor(Math.log10(step) + 1e-9);
  return (NICE.find((nice) => nice * power > step * (1 + 1e-9)) ?? 20) * power;
}

function tidy(value: number): number {
  return Number(value.toPrecision(12)) + 0;
}

export interface SizeMark {
  bytes: number;
  label: string;
}

/** What a file has to fit into, wherever it is stored or sent. */
const STORES: SizeMark[] = [
  { bytes: 32e3, label: "32 kB flash" },
  { bytes: 256e3, label: "256 kB flash" },
  { bytes: 1e6, label: "1 MB flash" },
  { bytes: 10e6, label: "10 MB download" },
  { bytes: 100e6, label: "100 MB app" },
  { bytes: 1e9, label: "1 GB download" },
  { bytes: 8e9, label: "8 GB card" },
  { bytes: 32e9, label: "32 GB card" },
  { bytes: 128e9, label: "128 GB disk" },
];

/** What a model has to fit into while it runs. */
const MEMORIES: SizeMark[] = [
  { bytes: 32e3, label: "32 kB RAM" },
  { bytes: 256e3, label: "256 kB RAM" },
  { bytes: 1e6, label: "1 MB RAM" },
  { bytes: 8e6, label: "8 MB RAM" },
  { bytes: 64e6, label: "64 MB RAM" },
  { bytes: 512e6, label: "512 MB RAM" },
  { bytes: 2e9, label: "2 GB phone" },
  { bytes: 8e9, label: "8 GB laptop" },
  { bytes: 24e9, label: "24 GB GPU" },
  { bytes: 80e9, label: "80 GB GPU" },
];

/** The stores that lie well inside a bar of `dense` bytes, the largest two, smallest first. */
export function sizeMarks(dense: number): SizeMark[] {
  return STORES.filter((mark) => mark.bytes >= 0.09 * dense && mark.bytes <= 0.97 * dense).slice(-2);
}

/** The smallest store a file fits into, and the smallest memory a running model does; null beyond the largest. */
export const storeFor = (nbytes: number) => smallest(STORES, nbytes);
export const memoryFor = (nbytes: number) => smallest(MEMORIES, nbytes);

function smallest(marks: readonly SizeMark[], nbytes: number): SizeMark | null {
  return marks.find((mark) => nbytes <= mark.bytes) ?? null;
}
