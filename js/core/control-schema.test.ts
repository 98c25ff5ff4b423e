// What the page makes of the kinds it is told of, and of those it is not.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  BUILT_IN,
  bitsLacking,
  defaultsOf,
  entriesOf,
  entryOf,
  type KindEntry,
  labelOf,
  nearestBits,
  offered,
  pythonClasses,
  ROLES,
  settingText,
} from "./control-schema";

const SENT = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/kinds/schema.json"), "utf8"));
const NF4: KindEntry = { kind: "nf4", label: "NF4", title: "", bits: [4], scales: true, controls: [] };
const KINDS = { ...BUILT_IN, quantizer: [...BUILT_IN.quantizer, NF4] };

describe("the built-in kinds", () => {
  it.each(ROLES)("%s: whatever the page can estimate is as the kernel describes it", (role) => {
    for (const entry of BUILT_IN[role]) {
      const sent = SENT[role].find((other: KindEntry) => other.kind === entry.kind);
      expect({ ...sent, python: entry.python, unavailable: undefined }).toEqual({
        ...entry,
        python: entry.python,
        unavailable: undefined,
      });
      if (entry.python) expect(sent.python).toBe(entry.python);
    }
  });

  it("every one with settings has a class that code can make it with", () => {
    const withSettings = ROLES.flatMap((role) => BUILT_IN[role]).filter((entry) => entry.controls.length > 0);
    expect(withSettings.map((entry) => pythonClasses(BUILT_IN)[entry.kind])).not.toContain(undefined);
  });
});

describe("what a page offers", () => {
  it("the built-in kinds where the kernel sent none, and the plain one of each role first", () => {
    expect(offered(undefined)).toEqual(BUILT_IN);
    expect(offered({ quantizer: [NF4, ...BUILT_IN.quantizer] }).quantizer.map((entry) => entry.kind)).toEqual([
      "uniform",
      "nf4",
      "kmeans",
    ]);
  });

  it("a kind of the recipe that no schema lists, with its settings as they are", () => {
    const strange = { kind: "strange", levels: [0, 0.5], on: true };
    expect(entriesOf(KINDS, "quantizer", strange).map((entry) => entry.kind)).toContain("strange");
    const { label, controls } = entryOf(KINDS, "quantizer", strange);
    expect([label, ...controls.map((control) => `${control.name} ${settingText(strange, control)}`)]).toEqual([
      "strange",
      "levels [0,0.5]",
      "on true",
    ]);
    expect(entriesOf(KINDS, "quantizer", "nf4")).toBe(KINDS.quantizer);
  });

  it("settings in the order of the JSON, with their defaults", () => {
    expect(Object.entries(defaultsOf(entryOf(KINDS, "quantizer", "uniform")))).toEqual([
      ["symmetric", false],
      ["clipping", "auto"],
      ["scales", "float32"],
    ]);
  });

  it("the bits a quantizer has", () => {
    expect([1, 3, 8, 16, 32].map((bits) => nearestBits(NF4, bits))).toEqual([4, 4, 4, 16, 32]);
    expect(bitsLacking(NF4, 3)).toBe("NF4 has 4 bits");
    expect(bitsLacking({ ...NF4, bits: [2, 3, 4] }, 8)).toBe("NF4 has 2, 3 or 4 bits");
    expect([bitsLacking(NF4, 4), bitsLacking(NF4, 16)]).toEqual(["", ""]);
  });

  it("names for kinds, for the scope without an estimate, and for what it has never heard of", () => {
    expect(["nf4", "channel", "unheard"].map((tag) => labelOf(KINDS, tag))).toEqual(["NF4", "each channel", "unheard"]);
  });
});
