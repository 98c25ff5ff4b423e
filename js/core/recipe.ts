// The recipe in the browser: the twin of shrinkwidget/recipe.py, with the same canonical JSON and the same plans.
import { type Json, type JsonMap, parseOrdered, plainNumber } from "./json";
import { decided, overrideOf } from "./overrides";
import { quoted } from "./quoted";
import type { LayerFields, Override, Pattern, Plan, Recipe } from "./types";

export const BITS = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32] as const;
export const PATTERNS = ["unstructured", "2:4", "1:4", "4:8"] as const;

export const DEFAULTS: Recipe = {
  sparsity: 0,
  bits: 32,
  scope: "global",
  pattern: "unstructured",
  criterion: "magnitude",
  granularity: "channel",
  grid: "linear",
  symmetric: false,
  range: "auto",
  kept_bits: 32,
  seed: 0,
  layers: [],
};

const FORMAT = "shrinkwidget-recipe";
const VERSION = 1;
const MAX_GROUP = 2 ** 20;
const FIELDS = Object.keys(DEFAULTS).filter((name) => name !== "layers") as (keyof Omit<Recipe, "layers">)[];
const LAYER_FIELDS = ["sparsity", "bits", "pattern", "granularity", "grid", "symmetric", "range"] as const;

/** A recipe that cannot be; the message is one sentence. */
export class RecipeError extends Error {
  override name = "RecipeError";
}

export { layerLabel, layerMatches } from "./overrides";

/** The sparsity a pattern fixes, 1 − n/m; 0 for an unstructured one. */
export function patternSparsity(pattern: Pattern): number {
  if (pattern === "unstructured") return 0;
  const [n, m] = pattern.split(":").map(Number);
  return 1 - n / m;
}

/** A recipe with some fields changed; a new pattern brings its own sparsity unless one is given. */
export function withFields(recipe: Recipe, changes: Partial<Recipe>): Recipe {
  const own = changes.pattern !== undefined && changes.pattern !== recipe.pattern;
  const sparsity = own ? { sparsity: patternSparsity(changes.pattern!) } : {};
  return checkedRecipe({ ...recipe, ...sparsity, ...changes });
}

/** A recipe in which one layer (or pattern of names) is treated as `override` says; null: like all the others. */
export function withLayer(recipe: Recipe, name: string, override: Override | null): Recipe {
  const others = recipe.layers.filter(([key]) => key !== name);
  return checkedRecipe({ ...recipe, layers: override === null ? others : [...others, [name, override]] });
}

/** The plan of each layer, in the order of `names`; throws a RecipeError if an override matches none of them. */
export function resolve(recipe: Recipe, names: readonly string[]): Plan[] {
  const { unmatched, tooMany } = decided(recipe.layers, names);
  if (tooMany > 0) {
    throw new RecipeError(
      `Recipe(layers=…) has ${tooMany} keys with wildcards, too many or too long to be held against ` +
        `${names.length} layers: name the layers instead`,
    );
  }
  if (unmatched !== null) throw new RecipeError(`Recipe(layers={${quoted(unmatched)}: …}) matches no layer`);
  return plansOf(recipe, names);
}

/** The plan of each layer, whether or not every override names one. */
export function plansOf(recipe: Recipe, names: readonly string[]): Plan[] {
  return decided(recipe.layers, names).own.map((own) => planUnder(recipe, own));
}

/** What the recipe asks of the layer of this name. */
export function planOf(recipe: Recipe, name: string): Plan {
  return planUnder(recipe, overrideOf(recipe.layers, name)?.[1] ?? null);
}

/** What a recipe asks of a layer with this override, or none. */
function planUnder(recipe: Recipe, own: Override | null): Plan {
  const keep = own === "keep";
  const mine: Partial<LayerFields> = keep ? {} : (own ?? {});
  const pattern = mine.pattern ?? recipe.pattern;
  const sparsity = mine.sparsity ?? (pattern !== recipe.pattern ? patternSparsity(pattern) : undefined);
  return {
    keep,
    ranked: !keep && recipe.scope === "global" && pattern === "unstructured" && sparsity === undefined,
    sparsity: sparsity ?? recipe.sparsity,
    bits: mine.bits ?? recipe.bits,
    pattern,
    granularity: mine.granularity ?? recipe.granularity,
    grid: mine.grid ?? recipe.grid,
    symmetric: mine.symmetric ?? recipe.symmetric,
    range: mine.range ?? recipe.range,
  };
}

/** The canonical JSON text: no spaces, defaults left out; equal recipes give equal texts, here and in Python. */
export function recipeJson(recipe: Recipe): string {
  const parts = changedFields(recipe).map((name) => `"${name}":${valueText(recipe[name])}`);
  if (recipe.layers.length) parts.push(`"layers":{${layersText(recipe.layers)}}`);
  return `{${[`"format":"${FORMAT}"`, `"version":${VERSION}`, ...parts].join(",")}}`;
}

const texts = new WeakMap<Recipe["layers"], string>();

function layersText(layers: Recipe["layers"]): string {
  let text = texts.get(layers);
  if (text === undefined) {
    text = layers.map(([name, own]) => `${JSON.stringify(name)}:${overrideText(own)}`).join(",");
    texts.set(layers, text);
  }
  return text;
}

function overrideText(own: Override): string {
  if (own === "keep") return '"keep"';
  return `{${givenFields(own).map((name) => `"${name}":${valueText(own[name])}`)}}`;
}

function valueText(value: unknown): string {
  return typeof value === "number" ? plainNumber(value) : JSON.stringify(value);
}

/** The recipe's own fields that differ from their defaults, in the order of its JSON, without `layers`. */
export function recipeFields(recipe: Recipe): Record<string, unknown> {
  return Object.fromEntries(changedFields(recipe).map((name) => [name, recipe[name]]));
}

function changedFields(recipe: Recipe) {
  const defaults = { ...DEFAULTS, sparsity: patternSparsity(recipe.pattern) };
  return FIELDS.filter((name) => recipe[name] !== defaults[name]);
}

function givenFields(own: Partial<LayerFields>) {
  return LAYER_FIELDS.filter((name) => own[name] !== undefined);
}

/** Python code that rebuilds the recipe, `sw` being the package: `sw.Recipe(sparsity=0.9, bits=4)`. */
export function recipeCode(recipe: Recipe): string {
  const parts = changedFields(recipe).map((name) => `${name}=${pythonText(recipe[name])}`);
  const oneLine = `sw.Recipe(${parts.join(", ")})`;
  if (!recipe.layers.length) return oneLine;
  const layers = recipe.layers.map(([name, own]) => `        ${JSON.stringify(name)}: ${pythonOverride(own)},\n`);
  return `sw.Recipe(\n${parts.map((part) => `    ${part},\n`).join("")}    layers={\n${layers.join("")}    },\n)`;
}

function pythonOverride(own: Override): string {
  if (own === "keep") return "sw.Keep";
  return `dict(${givenFields(own)
    .map((name) => `${name}=${pythonText(own[name])}`)
    .join(", ")})`;
}

function pythonText(value: unknown): string {
  return typeof value === "boolean" ? (value ? "True" : "False") : valueText(value);
}

/** Read what `recipeJson` or Python's `to_json` wrote; throws a RecipeError for what is no recipe. */
export function parseRecipe(text: string): Recipe {
  let found: Json;
  try {
    found = parseOrdered(text);
  } catch (error) {
    throw new RecipeError(`this is not a recipe: it is not valid JSON (${(error as Error).message})`);
  }
  if (!(found instanceof Map) || found.get("format") !== FORMAT) {
    throw new RecipeError(`this is not a recipe: expected an object with "format": "${FORMAT}"`);
  }
  const version = found.get("version");
  if (!Number.isInteger(version) || (version as number) < 1 || (version as number) > VERSION) {
    throw new RecipeError(`this recipe has version ${quoted(version)}; expected a whole number from 1 to ${VERSION}`);
  }
  return fromMap(found);
}

function fromMap(found: JsonMap): Recipe {
  const given: Record<string, unknown> = Object.fromEntries(found);
  const { format: _format, version: _version, layers = new Map(), ...fields } = given;
  if (!(layers instanceof Map)) throw new RecipeError("Recipe(layers=…) must be an object of overrides by layer name");
  const sparsity = patternSparsity(checkedField("pattern", fields.pattern ?? DEFAULTS.pattern, "Recipe") as Pattern);
  const overrides = [...layers].map(([name, own]) => [name, own instanceof Map ? Object.fromEntries(own) : own]);
  return checkedRecipe({ ...DEFAULTS, sparsity, ...fields, layers: overrides as [string, Override][] });
}

function checkedRecipe(recipe: Recipe): Recipe {
  const { layers, ...fields } = recipe;
  checkFields(fields, FIELDS, "Recipe");
  return { ...recipe, layers: checkedLayers(layers) };
}

/** Lists of overrides that were checked, and what they became: a drag hands in the same list every frame. */
const checked = new WeakMap<Recipe["layers"], Recipe["layers"]>();

function checkedLayers(layers: Recipe["layers"]): Recipe["layers"] {
  let good = checked.get(layers);
  if (!good) {
    good = layers.map(([name, own]) => [name, checkedOverride(name, own)] as const);
    checked.set(layers, good);
    checked.set(good, good);
  }
  return good;
}

function checkedOverride(name: string, own: unknown): Override {
  if (own === "keep") return own;
  const where = `the override of ${quoted(name)}`;
  if (!name) throw new RecipeError('Recipe(layers=…) has the key ""; expected a layer\'s name or a pattern');
  if (typeof own !== "object" || own === null || Array.isArray(own)) {
    throw new RecipeError(`${where} must be "keep" or an object such as {"bits": 8}`);
  }
  checkFields(own, LAYER_FIELDS, where);
  return Object.fromEntries(givenFields(own).map((field) => [field, (own as Partial<LayerFields>)[field]]));
}

function checkFields(values: Partial<Recipe>, known: readonly string[], where: string): void {
  for (const [name, value] of Object.entries(values)) {
    if (!known.includes(name)) throw new RecipeError(`${where} has no field ${quoted(name)}`);
    checkedField(name, value, where);
  }
  const { pattern = "unstructured", sparsity } = values;
  if (pattern !== "unstructured" && sparsity !== undefined && sparsity !== patternSparsity(pattern)) {
    throw new RecipeError(`${where}: pattern ${pattern} fixes the sparsity at ${patternSparsity(pattern)}`);
  }
}

const CHECKS: Record<string, { want: string; good: (value: unknown) => boolean }> = {
  sparsity: { want: "a fraction, 0 <= sparsity < 1", good: (v) => isNumber(v) && v >= 0 && v < 1 },
  bits: oneOf(BITS),
  scope: oneOf(["global", "layer"]),
  pattern: oneOf(PATTERNS),
  criterion: oneOf(["magnitude", "random"]),
  granularity: {
    want: `"tensor", "channel" or a group size from 2 to ${MAX_GROUP}`,
    good: (v) => v === "tensor" || v === "channel" || (isWhole(v) && v >= 2 && v <= MAX_GROUP),
  },
  grid: oneOf(["linear", "codebook"]),
  symmetric: oneOf([true, false]),
  range: {
    want: '"auto", "absmax", "mse" or a percentile above 50 and up to 100',
    good: (v) => v === "auto" || v === "absmax" || v === "mse" || (isNumber(v) && v > 50 && v <= 100),
  },
  kept_bits: oneOf([16, 32]),
  seed: { want: "a whole number from 0 to 2^53 - 1", good: (v) => isWhole(v) && v >= 0 },
};

function oneOf(choices: readonly unknown[]) {
  return {
    want: `one of ${choices.map((c) => JSON.stringify(c)).join(", ")}`,
    good: (v: unknown) => choices.includes(v),
  };
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function checkedField(name: string, value: unknown, where: string): unknown {
  const { want, good } = CHECKS[name];
  if (!good(value)) throw new RecipeError(`${where}(${name}=${quoted(value)}) must be ${want}`);
  return value;
}
