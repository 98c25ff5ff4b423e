// The recipe's own controls: sparsity and bits, and everything else behind "Options".

import { useComputed } from "@preact/signals";
import { bytes, count, estimated, withoutNoise } from "../charts/number-format";
import { entryOf, fixedSparsity } from "../core/control-schema";
import { sameKind } from "../core/method-settings";
import { DEFAULTS, withFields } from "../core/recipe";
import type { Granularity, Kind, Recipe, Scope, Structure } from "../core/types";
import { focusAfter } from "../ui/guard-keys-and-focus";
import { Choice, type Option, options, PercentSlider } from "../ui/inputs";
import { useUnique } from "../ui/size-and-drawing-hooks";
import { BudgetSlider } from "./budget-slider";
import { ChannelSettings, ChannelSlider } from "./channel-controls";
import type { State } from "./explorer-state";
import { byLayer, zeroWords } from "./layer-and-file-figures";
import {
  bitsOptions,
  KindChoice,
  KindSettings,
  quantizerFields,
  scalesIdle,
  withImportance,
  withStructure,
} from "./method-controls";
import { useView } from "./view-state";

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

/** How many of the options differ from their defaults. */
export function optionsSet(recipe: Recipe): number {
  const { sparsity: _1, bits: _2, channels: _3, layers: _4, ...options } = DEFAULTS; // those have controls elsewhere, or none
  return (Object.keys(options) as (keyof typeof options)[]).filter(
    (name) => !sameKind(recipe[name] as Kind, options[name] as Kind),
  ).length;
}

/**
 * Whether the options show themselves, as long as nobody has folded or unfolded them. "Each layer" is the scope of every
 * recipe that a budget makes: the page is not to jump for that, neither then nor when another control is moved next.
 */
export function unfolds(recipe: Recipe): boolean {
  return optionsSet(recipe.scope === "layer" ? withFields(recipe, { scope: DEFAULTS.scope }) : recipe) > 0;
}

export function RecipeControls() {
  const { state } = useView();
  const id = useUnique();
  const set = useComputed(() => optionsSet(state.recipe.value)).value;
  const unfolded = useComputed(() => unfolds(state.recipe.value)).value;
  const open = state.page.value.options ?? unfolded;
  if (state.simple.value) {
    return (
      <section class="sw-controls" aria-label="Recipe">
        <Sparsity />
        <Bits />
        <BudgetSlider />
        <ChannelSlider />
        <ExactOnly />
        <AllControls />
      </section>
    );
  }
  return (
    <section class="sw-controls" aria-label="Recipe">
      <Sparsity />
      <Bits />
      <BudgetSlider />
      <ChannelSlider />
      <ExactOnly />
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

/** How many settings have an effect and no control in the simple view. */
export function settingsNotShown(recipe: Recipe, recalibrate: boolean): number {
  return optionsSet(recipe) + recipe.layers.length + (recalibrate ? 1 : 0);
}

/** The way from the simple view to everything; it says what it would show of this very recipe. */
function AllControls() {
  const { state, root } = useView();
  const hidden = settingsNotShown(state.recipe.value, state.recalibrate.value);
  return (
    <div class="sw-all-controls">
      <button
        type="button"
        class="sw-button"
        data-testid="all-controls"
        onClick={() => {
          state.setSimple(false);
          focusAfter(root, "[data-testid=options]");
        }}
      >
        All controls
      </button>
      {hidden > 0 && (
        <span class="sw-hint" data-testid="not-shown">
          + {hidden} {hidden === 1 ? "setting" : "settings"} not shown
        </span>
      )}
    </div>
  );
}

function Sparsity() {
  const { state } = useView();
  const recipe = state.recipe.value;
  const figures = state.figures.value;
  const fixed = fixedSparsity(state.kinds.value, recipe.structure) !== null;
  const known = !state.exactOnly.value.waiting && !state.sketching.value;
  return (
    <PercentSlider
      label="Sparsity"
      term="sparsity"
      value={recipe.sparsity}
      valueText={`${percentText(recipe.sparsity)} sparse${known ? `, ${estimated(figures.sized, bytes(figures.nbytes))}` : ""}`}
      hint={fixed ? structureTitle(state, recipe.structure) : <KeptHint />}
      disabled={fixed}
      testid="sparsity"
      change={(sparsity) => state.edit((r) => withFields(r, { sparsity }), "sparsity")}
      settle={(over) => state.settle(over)}
    />
  );
}

/** What a structure does, in words. */
export function structureTitle(state: State, structure: Structure): string {
  const { title, label } = entryOf(state.kinds.value, "structure", structure);
  return title || label;
}

/** A sparsity with the digits it was given. */
const percentText = (share: number) => `${withoutNoise(100 * share)}\u00a0%`;

function KeptHint() {
  const { state } = useView();
  const figures = state.figures.value;
  const unknown = state.exactOnly.value.waiting || state.sketching.value;
  const kept = unknown ? "…" : estimated(figures.sized, count(figures.kept));
  const own = byLayer(state.plans.value, "sparsity", state.recipe.value.sparsity);
  const { layers } = figures.left;
  const [n, zeros] = layers.reduce(([all, zero], layer) => [all + layer.n, zero + layer.zeros], [0, 0]);
  return (
    <>
      {own && `${own}: `}keeps {kept} of {count(n)} weights
      {zeros > 0 && !state.sketching.value && `; ${zeroWords(zeros, n)}`}
    </>
  );
}

function Bits() {
  const { state } = useView();
  // each by itself: a drag of the sparsity changes none of them, and so draws none of the buttons again
  const quantizer = useComputed(() => state.recipe.value.quantizer).value;
  const bits = useComputed(() => state.recipe.value.bits).value;
  const own = useComputed(() => byLayer(state.plans.value, "bits", state.recipe.value.bits)).value;
  return (
    <Choice
      legend="Bits"
      term="bits"
      className="sw-bits"
      testid="bits"
      options={bitsOptions(state.kinds.value, quantizer)}
      value={bits}
      choose={(chosen) => state.edit((r) => withFields(r, { bits: chosen }))}
      hint={own}
    />
  );
}

/** A setter for one field of the recipe. */
function useField<K extends keyof Recipe>(field: K): [Recipe[K], (value: Recipe[K]) => void] {
  const { state } = useView();
  const choose = (value: Recipe[K]) => state.edit((r) => withFields(r, { [field]: value } as Partial<Recipe>));
  return [state.recipe.value[field], choose];
}

function Settings() {
  const { state } = useView();
  const [scope, setScope] = useField("scope");
  const { structure } = state.recipe.value;
  const [granularity, setGranularity] = useField("granularity");
  const [quantizer] = useField("quantizer");
  const [bits] = useField("bits");
  return (
    <>
      <Choice
        legend="scope"
        term="scope"
        testid="scope"
        options={options<Scope>(
          ["global", "global", "one ranking of all layers"],
          ["layer", "each layer", "the same sparsity in each layer"],
          ["channel", "each channel", "the same sparsity in each output channel"],
        )}
        value={scope}
        choose={setScope}
        idle={structure === "unstructured" ? "" : `${structure} is the same in every layer`}
      />
      <KindChoice
        of="structure"
        legend="structure"
        testid="structure"
        chosen={structure}
        choose={(entry) => state.edit((r) => withStructure(r, entry))}
      />
      <Choice
        legend="granularity"
        term="granularity"
        testid="granularity"
        options={granularityOptions(granularity)}
        value={granularity}
        choose={setGranularity}
        idle={scalesIdle(state.kinds.value, bits, quantizer)}
      />
      <KindChoice
        of="quantizer"
        legend="quantizer"
        testid="quantizer"
        chosen={quantizer}
        choose={(entry) => state.edit((r) => withFields(r, quantizerFields(entry, r.bits)))}
        idle={quantizerIdle(bits)}
      />
    </>
  );
}

/** Why there is no quantizer to choose or to set, or "". */
export const quantizerIdle = (bits: number) => (bits > 8 ? `${bits} bits need no quantizer` : "");

function RareSettings() {
  const { state } = useView();
  const [quantizer, setQuantizer] = useField("quantizer");
  const [importance, setImportance] = useField("importance");
  const [uncompressedBits, setUncompressedBits] = useField("uncompressed_bits");
  const [bits] = useField("bits");
  return (
    <>
      <ChannelSettings />
      <KindSettings of="quantizer" kind={quantizer} change={setQuantizer} bits={bits} idle={quantizerIdle(bits)} />
      <KindChoice
        of="importance"
        legend="prune by"
        testid="importance"
        chosen={importance}
        choose={(entry) => state.edit((r) => withImportance(r, entry))}
      />
      <KindSettings of="importance" kind={importance} change={setImportance} />
      <Choice
        legend="biases, norms"
        term="uncompressed"
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

/** Said of a recipe that the page cannot estimate: that figures are counted, and while they are not of this recipe yet. */
function ExactOnly() {
  const { state } = useView();
  const { name, waiting } = state.exactOnly.value;
  const gone = !state.kernel || state.notice.value === "gone";
  const counted = `exact only: ${name} has no estimate, so figures follow when the kernel has counted`;
  const words = gone ? `exact only: ${name} needs the kernel` : "exact only: waits for the kernel";
  const shown = state.kernel ? "the last ones it counted" : "those of another recipe";
  return (
    <p class="sw-hint sw-exact-only" role="status" data-testid="exact-only" data-waiting={waiting}>
      {name && (waiting ? `${words}; the figures are ${shown}` : counted)}
    </p>
  );
}
