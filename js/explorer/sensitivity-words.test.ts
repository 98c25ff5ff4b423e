// What is said of a sensitivity: of one layer, of all, in the metric's unit and direction.
import { describe, expect, it } from "vitest";
import type { Sensitivity } from "./host-interface";
import { dropText, sensitivityLines, sensitivityWords } from "./sensitivity-words";

const METRIC = { name: "accuracy", higher: true, percent: true, has_data: true };
const LOSS = { name: "loss", higher: false, percent: false, has_data: true };
const plain = (text: string) => text.replaceAll("\u00a0", " ");
const measured: Sensitivity = {
  state: "done",
  text: "",
  kind: "sparsity",
  amounts: [0.5, 0.995],
  dense: 0.98,
  n: 360,
  examples: "all 360 examples",
  layers: [[0.97, 0.1], null, [0.98, 0.96]],
  pending: 0,
};

describe("of one layer", () => {
  it("every score is said", () => {
    expect(sensitivityLines(METRIC, measured, 0).map(plain)).toEqual([
      "accuracy with only this layer pruned, 98.0 % dense:",
      "50 %: 97.0 %",
      "99.5 %: 10.0 %",
    ]);
    const bits: Sensitivity = { ...measured, kind: "bits", amounts: [2, 1] };
    expect(plain(sensitivityLines(METRIC, bits, 2).join())).toContain(
      "quantized, 98.0 % dense:,2 bits: 98.0 %,1 bit: 96.0 %",
    );
  });

  it("it is said that there is none", () => {
    expect(sensitivityLines(METRIC, measured, 1)).toEqual(["sensitivity: not measured"]);
    expect(sensitivityLines(METRIC, { ...measured, state: "running" }, 1)).toEqual(["sensitivity: not measured yet"]);
  });

  it("the drop is the mean over all amounts, and worse whichever way is better", () => {
    expect(plain(dropText(METRIC, measured, 0))).toBe("44.5 %");
    expect(dropText(METRIC, measured, 1)).toBe("–");
    expect(dropText(LOSS, { ...measured, dense: 1, layers: [[2, 4]] }, 0)).toBe("2");
  });
});

describe("of all", () => {
  it("says what was varied, on what, and how far it is", () => {
    expect(plain(sensitivityWords(METRIC, measured, true))).toBe(
      "accuracy, one layer at a time pruned to 50 % … 99.5 % · all 360 examples",
    );
    const one: Sensitivity = { ...measured, kind: "bits", amounts: [2], layers: [[0.9]] };
    expect(plain(sensitivityWords(METRIC, one, true))).toContain("one layer at a time quantized to 2 bits · all");
    const going: Sensitivity = { ...measured, state: "running", pending: 12 };
    expect(sensitivityWords(METRIC, going, true)).toContain("2 of 14 layers, all 360 examples");
    expect(sensitivityWords(METRIC, { ...going, state: "stopped" }, true)).toContain("examples, stopped");
    expect(sensitivityWords(METRIC, going, false)).toContain("examples, stopped"); // a page without a kernel
  });

  it("says what comes first, and what went wrong", () => {
    const begun: Sensitivity = { ...measured, state: "running", pending: null, layers: [] };
    expect(sensitivityWords(METRIC, begun, true)).toBe("sensitivity to sparsity: the dense model comes first");
    expect(sensitivityWords(METRIC, { ...begun, state: "failed", text: "no data" }, true)).toBe("no data");
  });
});
