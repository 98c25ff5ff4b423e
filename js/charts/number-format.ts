// Numbers as people read them: bytes, counts, percentages, decibels; always with a unit.

const grouped = new Intl.NumberFormat("en-US");
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const SPACE = "\u00a0";

/** Three significant digits without an exponent: 72.8, 1.08, 941. */
function three(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** Bytes with a decimal unit, kB = 1000 B: "72.8 kB". */
export function bytes(value: number): string {
  return inUnits(value, UNITS, 1000);
}

/** Bytes with a binary unit, KiB = 1024 B: "71.1 KiB". */
export function binaryBytes(value: number): string {
  return inUnits(value, BINARY_UNITS, 1024);
}

function inUnits(value: number, units: readonly string[], step: number): string {
  let unit = 0;
  let scaled = value;
  while (Math.abs(scaled) >= step - 0.5 && unit < units.length - 1) {
    scaled /= step;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(scaled) : three(scaled)}${SPACE}${units[unit]}`;
}

/** A whole number with thousands separated: "269,722". */
export function count(value: number): string {
  return grouped.format(Math.round(value));
}

/** A large number in short: "41.0 M". */
export function short(value: number): string {
  const steps: [number, string][] = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ];
  const step = steps.find(([size]) => value >= size);
  return step ? `${three(value / step[0])}${SPACE}${step[1]}` : String(Math.round(value));
}

/** A fraction as a percentage: "90 %", or "90.0 %" with one digit. */
export function percent(fraction: number, digits = 0): string {
  return `${(100 * fraction).toFixed(digits)}${SPACE}%`;
}

/** A fraction as a percentage that never rounds up to all or down to nothing: 0.9997 is "> 99.9 %". */
export function share(fraction: number): string {
  if (fraction <= 0 || fraction >= 1) return percent(Math.min(1, Math.max(0, fraction)));
  if (fraction < 0.001) return `<${SPACE}${percent(0.001, 1)}`;
  if (fraction > 0.999) return `>${SPACE}${percent(0.999, 1)}`;
  const whole = Math.round(100 * fraction);
  return percent(fraction, whole === 0 || whole === 100 ? 1 : 0);
}

/** A signal-to-noise ratio: "18.2 dB", and "exact" where nothing was lost. */
export function decibels(value: number): string {
  return Number.isFinite(value) ? `${value.toFixed(1)}${SPACE}dB` : value > 0 ? "exact" : "–";
}

/** An SQNR that may be estimated only; where nothing was rounded there is nothing to estimate. */
export function estimatedDecibels(exact: boolean, value: number): string {
  return estimated(exact || value === Number.POSITIVE_INFINITY, decibels(value));
}

/** A weight's value with as many digits as tell it apart: "0.1105". */
export function weight(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4 || size >= 1e5) return minus(value.toExponential(1));
  return minus(String(Number(value.toPrecision(3))));
}

/** A number with eight significant digits at most, as a person would type it: 99.25 of 100 · 0.9925. */
export function withoutNoise(value: number): string {
  return String(Number(value.toPrecision(8)));
}

/** A figure that is only estimated carries its sign wherever it stands: "≈ 72.8 kB". */
export function estimated(exact: boolean, text: string): string {
  return exact ? text : `≈${SPACE}${text}`;
}

/** Bits for each parameter, with three digits that count: "3.12", "744". */
export function perParameter(nbytes: number, parameters: number): string {
  return three((8 * nbytes) / parameters);
}

/** How a file compares with the dense one: "14.9× smaller", "3.70× larger", "as large". */
export function comparedSize(ratio: number): string {
  if (times(ratio) === "1.00×") return "as large";
  return ratio > 1 ? `${times(ratio)} smaller` : `${times(1 / ratio)} larger`;
}

/** How many times smaller: "14.9×". */
export function times(ratio: number): string {
  return `${ratio >= 99.5 ? count(ratio) : ratio >= 9.95 ? ratio.toFixed(1) : ratio.toFixed(2)}×`;
}

function minus(text: string): string {
  return text.replaceAll("-", "\u2212");
}
