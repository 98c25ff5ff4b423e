// The recipe's own controls: sparsity and bits, and everything else behind "Options".

import { useState } from "preact/hooks";
import { bytes, count, estimated, percent, withoutNoise } from "../charts/number-format";
import { clippingOf, hasCodebook, sameKind, settingOf, tagOf, UNIFORM, withSetting } from "../core/kinds";
import { BITS, DEFAULTS, STRUCTURES, withFields } from "../core/recipe";
import type { Granularity, Kind, Recipe, Structure } from "../core/types";
import { useUnique } from "../ui/hooks";
import { Choice, type Option, options, SparsitySlider } from "../ui/inputs";
import { zeroWords } from "./selectors";
import { useView } from "./view-state";

export const STRUCTURE_OPTIONS: Option<Structure>[] = STRUCTURES.map((structure) =>
  structure === "unstructured"
    ? { value: structure, label: "unstructured", title: "any weight may be pruned" }
    : { value: structure, label: structure, title: structureSentence(structure) },
);

export const BITS_OPTIONS: Option<number>[] = BITS.map((bits) => ({
  value: bits,
  label: bits,
  title: bitsTitle(bits),
}));

function bitsTitle(bits: number): string {
  if (bits === 32) return "32 bits: as they are";
  if (bits === 16) return "16 bits: half precision";
  return bits === 1 ? "1 bit: a sign, times a scale" : `${bits} bits`;
}

/** What an n:m structure does, in words. */
export function structureSentence(structure: Structure): string {
  const [n, m] = structure.split(":").map(Number);
  return `${structure} keeps the ${n === 1 ? "largest" : `${n} largest`} of every ${m} neighbours: always ${percent(1 - n / m)} sparse`;
}

/** The scales a recipe may choose, with its own group size among them. */
export function granularityOptions(chosen: Granularity): Option<Granularity>[] {
  const groups = [32, 64, 128];
  if (typeof chosen === "number" && !groups.includes(chosen)) groups.push(chosen);
  return [
    { value: "tensor", label: "tensor", title: "one scale for each tensor" },
    { value: "channel", label: "channel", title: "one scale for each output channel" },
    ...groups.map((size) => ({ value: size, label: size, title: `one scale for each group of ${size} weights` })),
  ];
}

/** Why the choice of scales has no effect, or "". */
export function scalesIdle(bits: number, quantizer: Kind): string {
  if (bits > 8) return `${bits} bits need no scales`;
  return tagOf(quantizer) === "kmeans" ? "a codebook is always one for each tensor" : "";
}

/** How many of the options differ from their defaults. */
export function optionsSet(recipe: Recipe): number {
  const { sparsity: _1, bits: _2, layers: _3, ...options } = DEFAULTS; // those have controls elsewhere, or none
  return (Object.keys(options) as (keyof typeof options)[]).filter(
    (name) => !sameKind(recipe[name] as Kind, options[name] as Kind),
  ).length;
}

export function RecipeControls() {
  const { state } = useView();
  const id = useUnique();
  const set = optionsSet(state.recipe.value);
  const open = state.page.value.options ?? set > 0;
  return (
    <section class="sw-controls" aria-label="Recipe">
      <Sparsity />
      <Bits />
      <button
        type="button"
        class="sw-button sw-options-button"
        aria-expanded={open}
        aria-controls={id}
        data-testid="options"
        onClick={() => state.remember({ options: !open })}
      >
        Options{!open && set > 0 && ` · ${set} set`}
      </button>
      <div id={id} class="sw-options" hidden={!open}>
        {open && (
          <>
            <Settings />
            <RareSettings />
          </>
        )}
      </div>
    </section>
  );
}

function Sparsity() {
  const { state } = useView();
  const recipe = state.recipe.value;
  const figures = state.figures.value;
  return (
    <SparsitySlider
      label="Sparsity"
      value={recipe.sparsity}
      valueText={`${percentText(recipe.sparsity)} sparse, ${estimated(figures.exact, bytes(figures.nbytes))}`}
      hint={recipe.structure === "unstructured" ? <KeptHint /> : structureSentence(recipe.structure)}
      disabled={recipe.structure !== "unstructured"}
      testid="sparsity"
      change={(sparsity) => state.edit((r) => withFields(r, { sparsity }), "sparsity")}
      settle={(over) => state.settle(over)}
    />
  );
}

/** A sparsity with the digits it was given. */
const percentText = (share: number) => `${withoutNoise(100 * share)}\u00a0%`;

function KeptHint() {
  const { state } = useView();
  const figures = state.figures.value;
  const { layers } = state.sketch.value;
  const [n, zeros] = layers.reduce(([all, zero], layer) => [all + layer.n, zero + layer.zeros], [0, 0]);
  return (
    <>
      keeps {estimated(figures.exact, count(figures.kept))} of {count(n)} weights
      {zeros > 0 && `; ${zeroWords(zeros, n)}`}
    </>
  );
}

function Bits() {
  const { state } = useView();
  return (
    <Choice
      legend="Bits"
      className="sw-bits"
      testid="bits"
      options={BITS_OPTIONS}
      value={state.recipe.value.bits}
      choose={(bits) => state.edit((r) => withFields(r, { bits }))}
    />
  );
}

/** A setter for one field of the recipe. */
function useField<K extends keyof Recipe>(field: K): [Recipe[K], (value: Recipe[K]) => void] {
  const { state } = useView();
  const choose = (value: Recipe[K]) => state.edit((r) => withFields(r, { [field]: value } as Partial<Recipe>));
  return [state.recipe.value[field], choose];
}

/** A recipe with another structure; from n:m back to any weight the slider stays where n:m held it. */
export function withStructure(recipe: Recipe, structure: Structure): Recipe {
  const held = structure === "unstructured" ? { sparsity: recipe.sparsity } : {};
  return withFields(recipe, { structure, ...held });
}

function Settings() {
  const { state } = useView();
  const [scope, setScope] = useField("scope");
  const { structure } = state.recipe.value;
  const [granularity, setGranularity] = useField("granularity");
  const [quantizer, setQuantizer] = useField("quantizer");
  const [bits] = useField("bits");
  return (
    <>
      <Choice
        legend="scope"
        testid="scope"
        options={options(
          ["global", "global", "one ranking of all layers by magnitude"],
          ["layer", "each layer", "the same sparsity in each layer"],
        )}
        value={scope}
        choose={setScope}
        idle={structure === "unstructured" ? "" : `${structure} is the same in every layer`}
      />
      <Choice
        legend="structure"
        testid="structure"
        options={STRUCTURE_OPTIONS}
        value={structure}
        choose={(next) => state.edit((r) => withStructure(r, next))}
      />
      <Choice
        legend="granularity"
        testid="granularity"
        options={granularityOptions(granularity)}
        value={granularity}
        choose={setGranularity}
        idle={scalesIdle(bits, quantizer)}
      />
      <Choice<string>
        legend="quantizer"
        testid="quantizer"
        options={options(
          ["uniform", "uniform", "evenly spaced values"],
          ["kmeans", "k-means", "k-means values, one codebook for each tensor"],
        )}
        value={tagOf(quantizer)}
        choose={(tag) => setQuantizer(tag)}
        idle={bits > 8 ? `${bits} bits need no quantizer` : ""}
      />
    </>
  );
}

function RareSettings() {
  const [quantizer, setQuantizer] = useField("quantizer");
  const [importance, setImportance] = useField("importance");
  const [uncompressedBits, setUncompressedBits] = useField("uncompressed_bits");
  const [bits] = useField("bits");
  const symmetric = settingOf(quantizer, "symmetric", UNIFORM.symmetric);
  const clipping = clippingOf({ quantizer });
  const set = (name: string) => (value: unknown) => setQuantizer(withSetting(quantizer, name, value, UNIFORM));
  const gridIdle = bits > 8 || hasCodebook({ quantizer }) ? "only for a uniform quantizer of up to 8 bits" : "";
  const coarseIdle = gridIdle || (bits === 1 ? "1 bit is a sign: it has no range" : "");
  return (
    <>
      <Choice
        legend="clipping"
        testid="clipping"
        options={options(
          ["auto", "auto", "the least squared error at 2 bits; above, what promises the smaller error"],
          ["absmax", "largest", "the largest magnitude of the group"],
          ["mse", "least error", "the end with the least squared error"],
          ["percentile", "percentile", "a percentile of the magnitudes"],
        )}
        value={typeof clipping === "number" ? "percentile" : clipping}
        choose={(value) => set("clipping")(value === "percentile" ? 99.9 : value)}
        idle={coarseIdle}
      />
      {typeof clipping === "number" && <Percentile value={clipping} choose={set("clipping")} />}
      <Choice
        legend="zero point"
        testid="symmetric"
        options={options(
          [false, "asymmetric", "levels where the weights of the group are"],
          [true, "symmetric", "as many levels below zero as above"],
        )}
        value={symmetric}
        choose={set("symmetric")}
        idle={coarseIdle}
      />
      <Choice<string>
        legend="prune by"
        testid="importance"
        options={options(
          ["magnitude", "magnitude", "the smallest go first"],
          ["random", "random", "the baseline every comparison needs"],
        )}
        value={tagOf(importance)}
        choose={(tag) => setImportance(tag)}
      />
      <Choice
        legend="biases, norms"
        testid="uncompressed-bits"
        options={options(
          [32, "as they are", "tensors that are not compressed stay as they are"],
          [16, "16 bits", "tensors that are not compressed go to half precision"],
        )}
        value={uncompressedBits}
        choose={(value) => setUncompressedBits(value as 16 | 32)}
      />
    </>
  );
}

function Percentile({ value, choose }: { value: number; choose(value: number): void }) {
  const [refused, setRefused] = useState("");
  return (
    <span class="sw-box sw-percentile">
      <input
        type="number"
        min={50.1}
        max={100}
        step={0.1}
        value={value}
        aria-label="Clipping percentile"
        onChange={(event) => {
          const typed = event.currentTarget.valueAsNumber;
          const fits = typed > 50 && typed <= 100;
          setRefused(fits ? "" : `${event.currentTarget.value} % is not possible: above 50, at most 100`);
          if (fits) choose(typed);
          else event.currentTarget.value = String(value);
        }}
      />
      <span aria-hidden="true">%</span>
      {refused && (
        <span class="sw-failed" role="alert">
          {refused}
        </span>
      )}
    </span>
  );
}
