// A recipe in a few words, for labels and tips: two recipes that differ never read the same.

import { withoutNoise } from "../charts/number-format";
import { jsonText, PLAIN } from "../core/method-settings";
import { parseRecipe, recipeFields, structureSparsity } from "../core/recipe";
import type { Kind, LayerFields, Override } from "../core/types";

/** So many overrides are named one by one; of more, as a plan has, their span is told, and a checksum. */
const NAMED = 2;
/** So many overrides are listed in a tip. */
const LISTED = 20;
const SPACE = "\u00a0";

/** "80 %, 4 bits, tensor", from a recipe's canonical JSON (the twin of Python's `short_words`, held by the vectors). */
export function recipeLabel(text: string): string {
  const recipe = parseRecipe(text);
  const { sparsity: _sparsity, bits: _bits, structure: _structure, ...others } = recipeFields(recipe);
  const { structure, sparsity } = recipe;
  const told = structureSparsity(structure) > 0; // "2:4" says how much is pruned, and any other structure does not
  const pruning = structure === "unstructured" ? percentWords(sparsity) : `${percentWords(sparsity)} ${structure}`;
  const words = [told ? structure : pruning, bitsWords(recipe.bits)];
  if (recipe.layers.length > NAMED) {
    const { scope: _scope, ...rest } = others; // each layer has its own sparsity anyway
    const own = (name: "sparsity" | "bits") => [
      recipe[name],
      ...recipe.layers.flatMap(([, said]) => (said === "keep" ? [] : (said[name] ?? []))),
    ];
    const span = (values: number[]) => [...new Set([Math.min(...values), Math.max(...values)])];
    const percents = span(own("sparsity")).map((share) => withoutNoise(100 * share));
    const bits = span(own("bits"));
    if (structure === "unstructured") words[0] = `${percents.join("–")}${SPACE}%`;
    if (bits.length > 1) words[1] = `${bits.join("–")} bits`;
    for (const [name, value] of Object.entries(rest)) words.push(fieldWords(name, value));
    return [...words, `${recipe.layers.length} layers (${checksum(text)})`].join(", ");
  }
  for (const [name, value] of Object.entries(others)) words.push(fieldWords(name, value));
  words.push(...recipe.layers.map(([name, own]) => overrideWords(name, own)));
  return words.join(", ");
}

/** What the label of a recipe leaves out: its overrides, a line each. */
export function overrideLines(text: string): string[] {
  const { layers } = parseRecipe(text);
  if (layers.length <= NAMED) return [];
  const lines = layers.slice(0, LISTED).map(([name, own]) => overrideWords(name, own));
  return layers.length > LISTED ? [...lines, `… ${layers.length - LISTED} more layers`] : lines;
}

function overrideWords(name: string, own: Override): string {
  if (own === "keep") return `${name} uncompressed`;
  const fields = Object.entries(own as Partial<LayerFields>);
  return `${name} (${fields.map(([field, value]) => fieldWords(field, value)).join(", ")})`;
}

/** One field that is not at its default. */
function fieldWords(name: string, value: unknown): string {
  if (name === "sparsity") return percentWords(value as number);
  if (name === "bits") return bitsWords(value as number);
  if (name === "scope") return `each ${value}`;
  if (name === "granularity") return typeof value === "number" ? `groups of ${value}` : `scale per ${value}`;
  if (name === "uncompressed_bits") return `the rest ${bitsWords(value as number)}`;
  if (name === "channels") return `${percentWords(value as number)} of the channels`;
  if (name === "multiple") return `multiples of ${value}`;
  if (name === "channel_scope") return "channels ranked together";
  if (name === "importance" || name === "quantizer" || name === "structure") return kindWords(name, value as Kind);
  return settingWords(name, value);
}

/** A kind by its tag, unless that goes without saying, and its settings. */
function kindWords(role: keyof typeof PLAIN, kind: Kind): string {
  if (typeof kind === "string") return kind;
  const { kind: tag, ...settings } = kind;
  const words = Object.entries(settings).map(([name, value]) => settingWords(name, value));
  return (tag === PLAIN[role] ? words : [tag, ...words]).join(", ");
}

function settingWords(name: string, value: unknown): string {
  if (typeof value === "boolean") return value ? name : `not ${name}`;
  if (typeof value === "number") return `${name} ${withoutNoise(value)}`;
  return typeof value === "string" ? `${name} ${value}` : `${name} (${checksum(jsonText(value))})`;
}

const bitsWords = (bits: number) => `${bits} ${bits === 1 ? "bit" : "bits"}`;
const percentWords = (share: number) => `${withoutNoise(100 * share)}${SPACE}%`;

/** Four hexadecimal digits that tell one text from another (FNV-1a of its UTF-8). */
function checksum(text: string): string {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash.toString(16).padStart(8, "0").slice(0, 4);
}
