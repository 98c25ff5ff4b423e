// The recipe in the browser: the twin of shrinkwidget/recipe_and_method_registry.py, with the same canonical JSON and the same plans.

import { decided, overrideOf } from "./layer-overrides";
import { jsonText, PLAIN, sameKind } from "./method-settings";
import { type Json, type JsonMap, parseOrdered } from "./ordered-json";
import { quoteName } from "./quote-name";
import type {
  ChannelScope,
  Kind,
  LayerFields,
  Override,
  OverrideFields,
  Plan,
  Recipe,
  Sketch,
  Structure,
} from "./types";

export const BITS = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32] as const;

export const DEFAULTS: Recipe = {
  sparsity: 0,
  bits: 32,
  scope: "global",
  structure: PLAIN.structure,
  importance: PLAIN.importance,
  granularity: "channel",
  quantizer: PLAIN.quantizer,
  uncompressed_bits: 32,
  channels: 0,
  multiple: 1,
  channel_scope: "width",
  layers: [],
};

const FORMAT = "shrinkwidget-recipe";
const VERSION = 2;
const MAX_GROUP = 2 ** 20;
const FIELDS = Object.keys(DEFAULTS).filter((name) => name !== "layers") as (keyof Omit<Recipe, "layers">)[];
const OVERRIDE_FIELDS = ["sparsity", "bits", "structure", "granularity", "quantizer", "channels", "multiple"] as const;

/** A recipe that cannot be; the message is one sentence. */
export class RecipeError extends Error {
  override name = "RecipeError";
}

export { layerLabel, layerMatches } from "./layer-overrides";

/** The sparsity a structure fixes, 1 − n/m; 0 for any other. */
export function structureSparsity(structure: Structure): number {
  const [, n, m] = /^(\d+):(\d+)$/.exec(structure)?.map(Number) ?? [];
  return m > 0 ? 1 - n / m : 0;
}

/** A recipe with some fields changed; a new structure brings its own sparsity unless one is given. */
export function withFields(recipe: Recipe, changes: Partial<Recipe>): Recipe {
  const own = changes.structure !== undefined && changes.structure !== recipe.structure;
  const sparsity = own ? { sparsity: structureSparsity(changes.structure!) } : {};
  return checkedRecipe({ ...recipe, ...sparsity, ...changes });
}

/** A recipe in which one layer (or pattern of names) is treated as `override` says; null: like all the others. */
export function withLayer(recipe: Recipe, name: string, override: Override | null): Recipe {
  const others = recipe.layers.filter(([key]) => key !== name);
  return checkedRecipe({ ...recipe, layers: override === null ? others : [...others, [name, override]] });
}

/** Whether a recipe asks for any channel to be removed. */
export function removesChannels({ channels, layers }: Recipe): boolean {
  return channels > 0 || layers.some(([, own]) => own !== "keep" && (own.channels ?? 0) > 0);
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
  if (unmatched !== null) throw new RecipeError(`Recipe(layers={${quoteName(unmatched)}: …}) matches no layer`);
  return plansOf(recipe, names);
}

/** The plan of each layer, whether or not every override names one. */
export function plansOf(recipe: Recipe, names: readonly string[]): Plan[] {
  const common = planUnder(recipe, null);
  return decided(recipe.layers, names).own.map((own) => (own ? planUnder(recipe, own) : common));
}

/** These plans for as much of a model as is sketched: layers that are not looked at yet stay as they are. */
export function sketchedPlans(plans: readonly Plan[], { layers }: Sketch): readonly Plan[] {
  if (!layers.some((layer) => layer.pending)) return plans;
  return plans.map((plan, i) => (layers[i].pending ? { ...plan, keep: true, scope: "layer" } : plan));
}

/** What the recipe asks of the layer of this name. */
export function planOf(recipe: Recipe, name: string): Plan {
  return planUnder(recipe, overrideOf(recipe.layers, name)?.[1] ?? null);
}

/** What a recipe asks of a layer with this override, or none. */
function planUnder(recipe: Recipe, own: Override | null): Plan {
  const keep = own === "keep";
  const mine: Partial<LayerFields> = keep ? {} : (own ?? {});
  const structure = mine.structure ?? recipe.structure;
  const sparsity = mine.sparsity ?? (structure !== recipe.structure ? structureSparsity(structure) : undefined);
  const alone = keep || structure !== "unstructured" || (recipe.scope === "global" && sparsity !== undefined);
  return {
    keep,
    scope: alone ? "layer" : recipe.scope,
    sparsity: sparsity ?? recipe.sparsity,
    bits: mine.bits ?? recipe.bits,
    structure,
    granularity: mine.granularity ?? recipe.granularity,
    quantizer: mine.quantizer ?? recipe.quantizer,
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

const valueText = jsonText;

/** The recipe's own fields that differ from their defaults, in the order of its JSON, without `layers`. */
export function recipeFields(recipe: Recipe): Record<string, unknown> {
  return Object.fromEntries(changedFields(recipe).map((name) => [name, recipe[name]]));
}

function changedFields(recipe: Recipe) {
  const defaults = { ...DEFAULTS, sparsity: structureSparsity(recipe.structure) };
  return FIELDS.filter((name) => !sameKind(recipe[name] as Kind, defaults[name] as Kind));
}

function givenFields(own: Partial<OverrideFields>) {
  return OVERRIDE_FIELDS.filter((name) => own[name] !== undefined);
}

/**
 * Python code that rebuilds the recipe, `sw` being the package: `sw.Recipe(sparsity=0.9, bits=4)`. `classes` make kinds with
 * settings; others are written as the object they are.
 */
export function recipeCode(recipe: Recipe, classes: Readonly<Record<string, string>>): string {
  const pythonText = (value: unknown) => inPython(value, classes);
  const parts = changedFields(recipe).map((name) => `${name}=${pythonText(recipe[name])}`);
  const oneLine = `sw.Recipe(${parts.join(", ")})`;
  const override = (own: Override) =>
    own === "keep"
      ? "sw.Keep"
      : `dict(${givenFields(own)
          .map((name) => `${name}=${pythonText(own[name])}`)
          .join(", ")})`;
  if (!recipe.layers.length) return oneLine;
  const layers = recipe.layers.map(([name, own]) => `        ${JSON.stringify(name)}: ${override(own)},\n`);
  return `sw.Recipe(\n${parts.map((part) => `    ${part},\n`).join("")}    layers={\n${layers.join("")}    },\n)`;
}

function inPython(value: unknown, classes: Readonly<Record<string, string>>): string {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((each) => inPython(each, classes)).join(", ")}]`;
  if (typeof value !== "object" || value === null) return valueText(value);
  const { kind = "", ...settings } = value as { kind?: string };
  const own = Object.hasOwn(classes, kind) ? classes[kind] : undefined;
  const pairs = Object.entries(own ? settings : value);
  if (own) return `${own}(${pairs.map(([name, x]) => `${name}=${inPython(x, classes)}`).join(", ")})`;
  return `{${pairs.map(([name, x]) => `${JSON.stringify(name)}: ${inPython(x, classes)}`).join(", ")}}`;
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
  if (version !== VERSION) throw new RecipeError(`this recipe has version ${quoteName(version)}; expected ${VERSION}`);
  return fromMap(found);
}

function fromMap(found: JsonMap): Recipe {
  const { format: _format, version: _version, layers = new Map(), ...fields } = Object.fromEntries(found);
  if (!(layers instanceof Map)) throw new RecipeError("Recipe(layers=…) must be an object of overrides by layer name");
  const structure = checkedField("structure", fields.structure ?? DEFAULTS.structure, "Recipe") as Structure;
  const overrides = [...layers].map(([name, own]) => [name, plainly(own)]);
  const given = plainly(new Map(Object.entries(fields))) as Partial<Recipe>;
  const sparsity = structureSparsity(structure);
  return checkedRecipe({ ...DEFAULTS, sparsity, ...given, layers: overrides as [string, Override][] });
}

/** What was parsed, with objects in place of maps. */
function plainly(found: unknown): unknown {
  if (Array.isArray(found)) return found.map(plainly);
  if (!(found instanceof Map)) return found;
  return Object.fromEntries([...found].map(([key, value]) => [key, plainly(value)]));
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
  const where = `the override of ${quoteName(name)}`;
  if (!name) throw new RecipeError('Recipe(layers=…) has the key ""; expected a layer\'s name or a pattern');
  if (typeof own !== "object" || own === null || Array.isArray(own)) {
    throw new RecipeError(`${where} must be "keep" or an object such as {"bits": 8}`);
  }
  checkFields(own, OVERRIDE_FIELDS, where);
  return Object.fromEntries(givenFields(own).map((field) => [field, (own as Partial<OverrideFields>)[field]]));
}

function checkFields(values: Partial<Recipe>, known: readonly string[], where: string): void {
  for (const [name, value] of Object.entries(values)) {
    if (!known.includes(name)) throw new RecipeError(`${where} has no field ${quoteName(name)}`);
    checkedField(name, value, where);
  }
  const { structure = "unstructured", sparsity } = values;
  const fixed = structureSparsity(structure);
  if (fixed > 0 && sparsity !== undefined && sparsity !== fixed) {
    throw new RecipeError(`${where}: structure ${structure} fixes the sparsity at ${fixed}`);
  }
}

const CHECKS: Record<string, { want: string; good: (value: unknown) => boolean }> = {
  sparsity: aFraction("sparsity"),
  channels: aFraction("channels"),
  multiple: {
    want: `a whole number from 1 to ${MAX_GROUP}`,
    good: (v) => isWhole(v) && v >= 1 && v <= MAX_GROUP,
  },
  channel_scope: oneOf(["width", "global"] satisfies ChannelScope[]),
  bits: oneOf(BITS),
  scope: oneOf(["global", "layer", "channel"]),
  structure: { want: "the name of a structure", good: (v) => typeof v === "string" },
  importance: aKind("importance"),
  granularity: {
    want: `"tensor", "channel" or a group size from 2 to ${MAX_GROUP}`,
    good: (v) => v === "tensor" || v === "channel" || (isWhole(v) && v >= 2 && v <= MAX_GROUP),
  },
  quantizer: aKind("quantizer"),
  uncompressed_bits: oneOf([16, 32]),
};

function aFraction(name: string) {
  return { want: `a fraction, 0 <= ${name} < 1`, good: (v: unknown) => isNumber(v) && v >= 0 && v < 1 };
}

/** A tag, or an object with a tag; which tags and settings there are, the kernel knows. */
function aKind(role: string) {
  const isObject = (v: unknown): v is object => typeof v === "object" && v !== null && !Array.isArray(v);
  return {
    want: `the name of an ${role}, or an object with its "kind"`.replace("an q", "a q"),
    good: (v: unknown) => typeof v === "string" || (isObject(v) && typeof (v as { kind?: unknown }).kind === "string"),
  };
}

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
  if (!good(value)) throw new RecipeError(`${where}(${name}=${quoteName(value)}) must be ${want}`);
  return value;
}
