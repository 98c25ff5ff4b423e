// Kinds: an importance, a structure or a quantizer as a recipe holds it, and the settings the estimates here read of them.
import { plainNumber } from "./ordered-json";
import type { Clipping, Kind, Plan, Recipe } from "./types";

/** The kind of each role that a recipe has where it says nothing. */
export const PLAIN = { structure: "unstructured", importance: "magnitude", quantizer: "uniform" } as const;

/** The tag that stands for a kind. */
export function tagOf(kind: Kind): string {
  return typeof kind === "string" ? kind : kind.kind;
}

/** A setting of a kind; `missing` where the recipe leaves it at its default. */
export function settingOf<T>(kind: Kind, name: string, missing: T): T {
  return typeof kind === "string" ? missing : ((kind[name] as T | undefined) ?? missing);
}

/** A kind with one setting changed; `defaults` are all its settings, in the order in which they are written. */
export function withSetting(kind: Kind, name: string, value: unknown, defaults: Record<string, unknown>): Kind {
  const settings = Object.keys(defaults).flatMap((key) => {
    const own = key === name ? value : settingOf(kind, key, defaults[key]);
    return own === defaults[key] ? [] : [[key, own]];
  });
  return settings.length ? { kind: tagOf(kind), ...Object.fromEntries(settings) } : tagOf(kind);
}

/** Whether two kinds are the same, settings and all. */
export function sameKind(a: Kind, b: Kind): boolean {
  return a === b || kindText(a) === kindText(b);
}

/** The canonical JSON text of a kind. */
export function kindText(kind: Kind): string {
  return typeof kind === "string" ? JSON.stringify(kind) : jsonText(kind);
}

/** JSON text without spaces, numbers without an exponent, keys as they come. */
export function jsonText(value: unknown): string {
  if (typeof value === "number") return plainNumber(value);
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, own]) => `${JSON.stringify(key)}:${jsonText(own)}`)}}`;
}

export const UNIFORM: { symmetric: boolean; clipping: Clipping; scales: string } = {
  symmetric: false,
  clipping: "auto",
  scales: "float32",
};

/** Whether a uniform quantizer has as many values below zero as above. */
export function isSymmetric({ quantizer }: Plan): boolean {
  return settingOf(quantizer, "symmetric", UNIFORM.symmetric);
}

/** Whether the scales of a uniform quantizer are numbers of 16 bits themselves, rather than fractions of the largest. */
export function has16BitScales({ quantizer }: Plan): boolean {
  return settingOf(quantizer, "scales", UNIFORM.scales) !== "float32";
}

/** What the values of a uniform quantizer span. */
export function clippingOf({ quantizer }: { readonly quantizer: Kind }): Clipping {
  return settingOf(quantizer, "clipping", UNIFORM.clipping);
}

/** Whether a recipe prunes at random. */
export function isRandom({ importance }: Recipe): boolean {
  return tagOf(importance) === "random";
}
