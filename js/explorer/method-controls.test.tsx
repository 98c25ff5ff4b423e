// @vitest-environment happy-dom
// The controls made of a schema: they say what it says, set what they show, and survive what they have never heard of.
import { signal } from "@preact/signals";
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BUILT_IN, entryOf, type KindEntry, type Kinds, type Role } from "../core/control-schema";
import { DEFAULTS, parseRecipe, recipeJson, withFields } from "../core/recipe";
import type { Kind } from "../core/types";
import {
  bitsOptions,
  KindChoice,
  KindSettings,
  quantizerFields,
  scalesIdle,
  withImportance,
  withStructure,
} from "./method-controls";
import { type View, ViewProvider } from "./view-state";

const POWER: KindEntry = {
  kind: "power",
  label: "power",
  title: "magnitudes to a power",
  scope: "channel",
  controls: [
    {
      name: "exponent",
      label: "exponent",
      title: "1: as they are",
      type: "number",
      default: 1,
      min: 0.5,
      max: 4,
      step: 0.5,
    },
    { name: "groups", label: "groups", type: "value", default: [1, 2] },
  ],
};
const ABSENT: KindEntry = {
  kind: "wanda",
  label: "Wanda",
  title: "",
  unavailable: "needs calibration data",
  controls: [],
};
const NF4: KindEntry = { kind: "nf4", label: "NF4", title: "", bits: [4], scales: false, controls: [] };
const KINDS: Kinds = {
  ...BUILT_IN,
  importance: [...BUILT_IN.importance, POWER, ABSENT],
  quantizer: [...BUILT_IN.quantizer, NF4],
};

describe("controls made of a schema", () => {
  let root: HTMLElement;
  let chosen: unknown[];

  beforeEach(() => {
    root = document.body.appendChild(document.createElement("div"));
    chosen = [];
  });
  afterEach(() => {
    render(null, root);
    root.remove();
  });

  function show(of: Role, kind: Kind, bits = 4, idle = ""): void {
    const view = { state: { kinds: signal(KINDS) } } as unknown as View;
    act(() =>
      render(
        <ViewProvider value={view}>
          <KindChoice of={of} legend={of} testid={of} chosen={kind} choose={(entry) => chosen.push(entry.kind)} />
          <KindSettings of={of} kind={kind} change={(next) => chosen.push(next)} bits={bits} idle={idle} />
        </ViewProvider>,
        root,
      ),
    );
  }
  const all = (selector: string) => [...root.querySelectorAll<HTMLInputElement>(selector)];
  const texts = (selector: string) => all(selector).map((element) => element.textContent);
  const checked = (testid: string) => all(`[data-testid=${testid}] input:checked`).map((input) => input.value);
  function type(selector: string, value: string): void {
    const [input] = all(selector);
    input.value = value;
    act(() => void input.dispatchEvent(new Event("change", { bubbles: true })));
  }

  it("offers each kind by its label, says what it does, and why one cannot be had", () => {
    show("importance", "random");
    expect(texts("[data-testid=importance] label")).toEqual([
      "magnitude",
      "random",
      "batch-norm scale",
      "power",
      "Wanda",
    ]);
    expect(all("[data-testid=importance] input").map((input) => [input.title, input.disabled])).toEqual([
      ["the smallest go first", false],
      ["the baseline every comparison needs", false],
      ["channels by the scale of their batch norm, single weights by magnitude", false],
      ["magnitudes to a power", false],
      ["needs calibration data", true],
    ]);
    expect(checked("importance")).toEqual(["random"]);
    all("[data-testid=importance] input")[3].click();
    expect(chosen).toEqual(["power"]);
  });

  it("has a number box where a setting is a number, which refuses what cannot be", () => {
    show("importance", { kind: "power", exponent: 2 });
    const box = "[data-testid=exponent] input";
    expect([all(box)[0].value, all(box)[0].getAttribute("aria-label")]).toEqual(["2", "exponent"]);
    type(box, "9");
    expect([chosen, texts("[role=alert]"), all(box)[0].value]).toEqual([[], ["9 is not possible: 0.5 to 4"], "2"]);
    type(box, "3");
    type(box, "1");
    expect(chosen).toEqual([{ kind: "power", exponent: 3 }, "power"]);
    expect(texts("[role=alert]")).toEqual([]);
  });

  it("takes whole numbers only where steps are whole", () => {
    show("importance", "random");
    type("[data-testid=seed] input", "1.5");
    expect(texts("[role=alert]")).toEqual(["1.5 is not possible: a whole number, 0 or more"]);
    type("[data-testid=seed] input", "7");
    expect(chosen).toEqual([{ kind: "random", seed: 7 }]);
  });

  it("has segments where a setting is a choice, and a box for a number of one's own", () => {
    show("quantizer", { kind: "uniform", clipping: 99 });
    expect([checked("symmetric"), checked("clipping")]).toEqual([["false"], ["percentile"]]);
    type(".sw-number input", "98.5");
    all("[data-testid=symmetric] input")[1].click();
    all("[data-testid=clipping] input[value=mse]")[0].click();
    all("[data-testid=clipping] input[value=percentile]")[0].click();
    expect(chosen).toEqual([
      { kind: "uniform", clipping: 98.5 },
      { kind: "uniform", symmetric: true, clipping: 99 },
      { kind: "uniform", clipping: "mse" },
      { kind: "uniform", clipping: 99.9 },
    ]);
  });

  it("disables what has no effect and says why", () => {
    show("quantizer", "uniform", 1);
    expect(all("fieldset:disabled").map((set) => [set.dataset.testid, set.title])).toEqual([
      ["symmetric", "1 bit is a sign: it has no range"],
      ["clipping", "1 bit is a sign: it has no range"],
      ["scales", "1 bit is a sign: its scale is a float32"],
    ]);
    show("quantizer", "uniform", 16, "16 bits need no quantizer");
    expect(all("fieldset:disabled")[0].title).toBe("16 bits need no quantizer");
  });

  it("shows a setting it has no control for as it is, and a kind it has never heard of by its tag", () => {
    show("importance", { kind: "power", groups: [3] });
    expect(texts("[data-testid=groups]")).toEqual(["groups [3]"]);
    show("importance", { kind: "strange", inner: { a: 1 }, name: "x" });
    expect([checked("importance"), texts(".sw-fixed")]).toEqual([["strange"], ['inner {"a":1}', "name x"]]);
  });
});

describe("choosing", () => {
  const start = withFields(DEFAULTS, { sparsity: 0.6, bits: 3 });

  it("an importance brings its scope", () => {
    expect(withImportance(start, POWER)).toEqual(withFields(start, { importance: "power", scope: "channel" }));
    expect(withImportance(start, ABSENT).scope).toBe("global");
  });

  it("a quantizer that has not the bits brings the nearest it has", () => {
    expect(withFields(start, quantizerFields(NF4, start.bits)).bits).toBe(4);
    expect(quantizerFields(NF4, 16).bits).toBe(16);
    expect(
      bitsOptions(KINDS, "nf4")
        .filter((option) => !option.missing)
        .map((option) => option.value),
    ).toEqual([4, 16, 32]);
  });

  it("says why scales have no effect", () => {
    expect(["uniform", "nf4"].map((kind) => scalesIdle(KINDS, 4, kind))).toEqual([
      "",
      "NF4 has one codebook for each tensor, and no scales",
    ]);
    expect(scalesIdle(KINDS, 16, "nf4")).toBe("16 bits need no scales");
  });

  it("a structure without a sparsity of its own leaves the slider where it is", () => {
    const text = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.6,"structure":"rows"}';
    expect(recipeJson(withStructure(start, entryOf(KINDS, "structure", "rows")))).toBe(
      recipeJson(withFields(parseRecipe(text), { bits: 3 })),
    );
  });
});
