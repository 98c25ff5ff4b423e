// Numbers read the way people write them, always with a unit.
import { expect, it } from "vitest";
import {
  bytes,
  comparedSize,
  decibels,
  estimated,
  estimatedDecibels,
  percent,
  perParameter,
  share,
  short,
  times,
  weight,
  withoutNoise,
} from "./number-format";

const plain = (text: string) => text.replaceAll("\u00a0", " ");

it.each([
  [0, "0 B"],
  [999, "999 B"],
  [1000, "1.00 kB"],
  [72_812, "72.8 kB"],
  [999_400, "999 kB"],
  [999_600, "1.00 MB"],
  [102_228_128, "102 MB"],
])("%i bytes read %s", (value, text) => {
  expect(plain(bytes(value))).toBe(text);
});

it.each([
  [0, "0 %"],
  [0.0000115, "< 0.1 %"],
  [0.001, "0.1 %"],
  [0.874, "87 %"],
  [0.999, "99.9 %"],
  [0.9997, "> 99.9 %"],
  [1, "100 %"],
])("a share of %f never rounds to all or nothing: %s", (value, text) => {
  expect(plain(share(value))).toBe(text);
});

it("errors, weights, ratios and counts carry their units", () => {
  expect(plain(decibels(18.24))).toBe("18.2 dB");
  expect(decibels(Number.POSITIVE_INFINITY)).toBe("exact");
  expect(plain(estimatedDecibels(false, 18.24))).toBe("≈ 18.2 dB");
  expect(estimatedDecibels(false, Number.POSITIVE_INFINITY)).toBe("exact");
  expect(weight(-0.11052)).toBe("−0.111");
  expect(weight(0)).toBe("0");
  expect(times(14.86)).toBe("14.9×");
  expect(times(9.5)).toBe("9.50×");
  expect(plain(short(41_000_000))).toBe("41.0 M");
  expect(plain(percent(0.9, 1))).toBe("90.0 %");
});

it.each([
  [14.86, "14.9× smaller"],
  [152 / 558, "3.67× larger"],
  [0.998, "as large"],
  [1.004, "as large"],
  [0.99, "1.01× larger"],
])("a file %f times smaller is called %s", (ratio, words) => {
  expect(comparedSize(ratio)).toBe(words);
});

it("an estimate carries its sign, a figure that was counted does not", () => {
  expect(plain(estimated(false, "72.8 kB"))).toBe("≈ 72.8 kB");
  expect(estimated(true, "72.8 kB")).toBe("72.8 kB");
});

it("bits per parameter have three digits that count", () => {
  expect(perParameter(558, 6)).toBe("744");
  expect(perParameter(1000, 2560)).toBe("3.13");
});

it("a number that was typed comes back as it was typed", () => {
  expect([0.9925, 0.8, 0.07].map((share) => withoutNoise(100 * share))).toEqual(["99.25", "80", "7"]);
});
