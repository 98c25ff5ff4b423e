// What the page can offer of kinds: their labels, their controls, and what choosing one brings, as the kernel sends it.

import { IMPORTANCES } from "./importances";
import { jsonText, PLAIN, settingOf, tagOf } from "./method-settings";
import { QUANTIZERS } from "./quantizers";
import { structureSparsity } from "./recipe";
import { IN_CHANNELS } from "./recipes-without-estimate";
import type { Kind, Scope, Structure } from "./types";

export type Role = keyof typeof PLAIN;
export const ROLES: readonly Role[] = ["importance", "structure", "quantizer"];

/** A kind that a recipe may choose. */
export interface KindEntry {
  readonly kind: string;
  readonly label: string;
  /** What it does, in a phrase. */
  readonly title: string;
  /** The class that makes it in Python; left out where code writes an object of tag and settings. */
  readonly python?: string;
  /** Why it cannot be chosen here; "" or left out where it can. */
  readonly unavailable?: string;
  /** The scope that an importance brings. */
  readonly scope?: Scope;
  /** The sparsity that a structure fixes. */
  readonly sparsity?: number;
  /** The bits that a quantizer has besides 16 and 32, which need none. */
  readonly bits?: readonly number[];
  /** Whether the granularity has an effect on a quantizer. */
  readonly scales?: boolean;
  /** One for each setting, in the order of the JSON. */
  readonly controls: readonly Control[];
}

interface Setting {
  readonly name: string;
  readonly label: string;
  readonly default: unknown;
}

export interface ChoiceControl extends Setting {
  readonly type: "choice";
  readonly options: readonly { readonly value: unknown; readonly label: string; readonly title: string }[];
  /** One more option: a number of one's own. */
  readonly number?: NumberBox;
  /** Bits at which it has an effect, and why it has none at others. */
  readonly bits?: readonly number[];
  readonly idle?: string;
}

export interface NumberBox {
  readonly label: string;
  readonly title: string;
  readonly min: number;
  readonly max: number;
  readonly step: number;
  readonly default: number;
  readonly unit?: string;
}

export interface NumberControl extends Setting, Omit<NumberBox, "default"> {
  readonly type: "number";
}

/** A setting that the page has no control for, such as a list. */
export interface OtherControl extends Setting {
  readonly type: "value";
}

export type Control = ChoiceControl | NumberControl | OtherControl;
export type Kinds = Readonly<Record<Role, readonly KindEntry[]>>;

/** The entry of a kind; one made up of what the recipe says, where the schema does not know it. */
export function entryOf(kinds: Kinds, role: Role, kind: Kind): KindEntry {
  const tag = tagOf(kind);
  const known = kinds[role].find((entry) => entry.kind === tag);
  if (known) return known;
  const { kind: _kind, ...settings } = typeof kind === "string" ? { kind } : kind;
  const controls = Object.keys(settings).map((name) => ({ name, label: name, type: "value", default: null }) as const);
  return { kind: tag, label: tag, title: "", controls };
}

/** The sparsity that a structure fixes, as its schema or else its tag says; null where the slider decides. */
export function fixedSparsity(kinds: Kinds, structure: Structure): number | null {
  return entryOf(kinds, "structure", structure).sparsity ?? (structureSparsity(structure) || null);
}

/** What the page calls the kind of this tag, or a scope, whatever its role. */
export function labelOf(kinds: Kinds, tag: string): string {
  if (tag === IN_CHANNELS) return "each channel";
  return ROLES.flatMap((role) => kinds[role]).find((entry) => entry.kind === tag)?.label ?? tag;
}

/** The entries of a role, that of the recipe's own kind among them. */
export function entriesOf(kinds: Kinds, role: Role, chosen: Kind): readonly KindEntry[] {
  const own = entryOf(kinds, role, chosen);
  return kinds[role].includes(own) ? kinds[role] : [...kinds[role], own];
}

/** All settings of a kind with their defaults, in the order in which they are written. */
export function defaultsOf(entry: KindEntry): Record<string, unknown> {
  return Object.fromEntries(entry.controls.map((control) => [control.name, control.default]));
}

/** A setting in words, for those without a control: a list as its JSON. */
export function settingText(kind: Kind, control: Control): string {
  const value = settingOf<unknown>(kind, control.name, control.default);
  return typeof value === "string" ? value : jsonText(value);
}

/** The bits a quantizer has that are nearest to those wanted; 16 and 32 need no quantizer. */
export function nearestBits(entry: KindEntry, bits: number): number {
  const { bits: own = [] } = entry;
  if (bits > 8 || own.length === 0 || own.includes(bits)) return bits;
  return own.reduce((best, each) => (Math.abs(each - bits) < Math.abs(best - bits) ? each : best));
}

/** Why a quantizer has no codes of so many bits: "NF4 has 4 bits"; "" if it has. */
export function bitsLacking(entry: KindEntry, bits: number): string {
  const { label, bits: own = [] } = entry;
  if (bits > 8 || own.length === 0 || own.includes(bits)) return "";
  const few = own.length === 1 && own[0] === 1 ? "bit" : "bits";
  const last = own.at(-1);
  return `${label} has ${own.length > 1 ? `${own.slice(0, -1).join(", ")} or ${last}` : last} ${few}`;
}

/** The classes that make kinds in Python, by tag. */
export function pythonClasses(kinds: Kinds): Record<string, string> {
  const all = ROLES.flatMap((role) => kinds[role]);
  return Object.fromEntries(all.flatMap(({ kind, python }) => (python ? [[kind, python]] : [])));
}

/** What the kernel sent, or the built-in kinds where it sent none, the plain one of each role first. */
export function offered(sent: Partial<Kinds> | null | undefined): Kinds {
  const plainFirst = (role: Role) => {
    const entries = sent?.[role]?.length ? sent[role] : BUILT_IN[role];
    return [...entries].sort((a, b) => Number(b.kind === PLAIN[role]) - Number(a.kind === PLAIN[role]));
  };
  return {
    importance: plainFirst("importance"),
    structure: plainFirst("structure"),
    quantizer: plainFirst("quantizer"),
  };
}

function pattern(n: number, m: number): KindEntry {
  const kept = n === 1 ? "largest" : `${n} largest`;
  const title = `${n}:${m} keeps the ${kept} of every ${m} neighbours: always ${100 * (1 - n / m)}% sparse`;
  return { kind: `${n}:${m}`, label: `${n}:${m}`, title, sparsity: 1 - n / m, controls: [] };
}

/** The kinds that the page can estimate: for a page whose kernel sends none. */
export const BUILT_IN: Kinds = {
  importance: IMPORTANCES.map(({ entry }) => entry),
  structure: [
    { kind: "unstructured", label: "unstructured", title: "any weight may be pruned", controls: [] },
    pattern(2, 4),
    pattern(1, 4),
    pattern(4, 8),
  ],
  quantizer: QUANTIZERS.map(({ entry }) => entry),
};
