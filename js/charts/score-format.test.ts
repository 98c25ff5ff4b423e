// Scores in the metric's own unit.
import { describe, expect, it } from "vitest";
import { directionWords, holdsUp, intervalText, metricTick, scoreWords } from "./score-format";

const metric = { name: "m", higher: true, has_data: true };

describe("a tick of a score's axis", () => {
  it.each([
    [0.95, "95\u00a0%"],
    [0.925, "92.5\u00a0%"],
  ])("is a percentage without a needless zero: %f", (value, text) => {
    expect(metricTick({ ...metric, percent: true }, value)).toBe(text);
  });

  it.each([
    [1.05, "1.05"],
    [0.0025, "0.0025"],
    [10, "10"],
  ])("keeps the zeros that count: %f", (value, text) => {
    expect(metricTick({ ...metric, percent: false }, value)).toBe(text);
  });
});

const accuracy = { name: "accuracy", higher: true, percent: true };
const loss = { name: "loss", higher: false, percent: false };
const plain = (text: string) => text.replaceAll("\u00a0", " ");

describe("an interval", () => {
  it.each([
    [accuracy, 0.984, 1, "98.4–100.0 %"],
    [accuracy, 0.301, 0.4, "30.1–40.0 %"],
    [loss, 0.12345, 0.5, "0.1235–0.5"],
    [loss, -0.25, 0.5, "-0.25 to 0.5"],
  ])("is written from its lower to its upper end, as it was computed", (metric, low, high, text) => {
    expect(plain(intervalText(metric, { low, high }))).toBe(text);
  });

  it("is nothing where too few examples tell one", () => {
    expect(intervalText(accuracy, { low: null, high: 1 })).toBe("");
    expect(plain(scoreWords(accuracy, { value: 0.5, low: null, high: null, n: 2 }))).toBe("50.0 %, 2 examples");
  });

  it("stands beside the value and the number of examples", () => {
    const words = scoreWords(accuracy, { value: 0.9972, low: 0.984, high: 1, n: 3600 });
    expect(plain(words)).toBe("99.7 %, 95 % interval 98.4–100.0 %, 3,600 examples");
  });
});

describe("praise", () => {
  const dense = { value: 0.95, low: 0.92, high: 0.97 };
  it.each([
    [accuracy, 0.92, true],
    [accuracy, 0.919, false],
    [accuracy, 0.99, true],
    [loss, 0.97, true],
    [loss, 0.98, false],
    [{ ...loss, higher: null }, 0.1, false],
  ])("is earned inside the interval of the dense model or beyond it, on the better side", (metric, value, earned) => {
    expect(holdsUp(metric, value, dense)).toBe(earned);
  });

  it("needs a dense model to compare with, and its value where that has no interval", () => {
    expect(holdsUp(accuracy, 1, null)).toBe(false);
    expect(holdsUp(accuracy, 0.94, { value: 0.95, low: null, high: null })).toBe(false);
  });
});

it("a metric says which way is better, or that nobody knows", () => {
  expect(directionWords(accuracy)).toBe("higher is better");
  expect(directionWords(loss)).toBe("lower is better");
  expect(directionWords({ ...loss, higher: null })).toBe("which way is better is not known");
});
