// Scores in the metric's own unit.
import { describe, expect, it } from "vitest";
import { metricTick } from "./score";

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
