// Which override decides a layer. A planner writes one override per layer, and a drag asks again every frame: so names are
// looked up, only wildcards are held against every layer, and answers are remembered by the list of overrides itself.
import { compileGlob, type Glob, globMatches, isGlob } from "./glob";
import type { Override, Recipe, Sketch } from "./types";

type Overrides = Recipe["layers"];

/** Wildcards × layers, and the letters of both, beyond which matching takes seconds; as in shrinkwidget/recipe_and_method_registry.py. */
const MOST_MATCHES = 2 ** 22;
const MOST_LETTERS = 2 ** 30;

/** What overrides mean for layers of these names. */
export interface Decided {
  readonly names: readonly string[];
  /** The override of each layer; null where it global values. */
  readonly own: readonly (Override | null)[];
  /** The first key that names no layer, or null. */
  readonly unmatched: string | null;
  /** How many keys have wildcards, where these are too many to be held against so many layers; else 0. */
  readonly tooMany: number;
}

/** The name of a layer as people say it: "conv1.weight" is "conv1". */
export function layerLabel(name: string): string {
  return name.endsWith(".weight") ? name.slice(0, -".weight".length) : name;
}

/** Whether an override's key names this layer, with or without its ".weight". */
export function layerMatches(key: string, name: string): boolean {
  const names = [name, layerLabel(name)];
  if (names.includes(key)) return true;
  const glob = isGlob(key) ? compileGlob(key) : null;
  return glob !== null && names.some((one) => globMatches(glob, [...one]));
}

/** The keys of overrides, made ready: what one that is a layer's own text says, and the wildcards, the last first. */
interface Index {
  readonly plain: ReadonlyMap<string, number>;
  readonly globs: readonly (readonly [number, Glob])[];
}

const indices = new WeakMap<Overrides, Index>();

function indexOf(overrides: Overrides): Index {
  let index = indices.get(overrides);
  if (!index) {
    const globs = overrides.flatMap(([key], i) => (isGlob(key) ? [[i, compileGlob(key)] as const] : []));
    index = { plain: new Map(overrides.map(([key], i) => [key, i])), globs: globs.reverse() };
    indices.set(overrides, index);
  }
  return index;
}

/** The entry that decides this layer (the last that matches), or null. */
export function overrideOf(overrides: Overrides, name: string): readonly [string, Override] | null {
  const { plain, globs } = indexOf(overrides);
  const label = layerLabel(name);
  const own = Math.max(plain.get(name) ?? -1, plain.get(label) ?? -1);
  // The last entry that matches wins, so only wildcards behind the layer's own entry can still change the answer.
  const later = globs.filter(([i]) => i > own);
  if (later.length === 0) return overrides[own] ?? null;
  const spelled = [[...name], ...(label === name ? [] : [[...label]])];
  const [last] = later.find(([, glob]) => spelled.some((letters) => globMatches(glob, letters))) ?? [own];
  return overrides[last] ?? null;
}

const namesOf = new WeakMap<Sketch, readonly string[]>();

/** The names of a sketch's layers, always as the same list. */
export function layerNames(sketch: Sketch): readonly string[] {
  let names = namesOf.get(sketch);
  if (!names) {
    names = sketch.layers.map((layer) => layer.name);
    namesOf.set(sketch, names);
  }
  return names;
}

const remembered = new WeakMap<Overrides, Decided>();

/** What overrides mean for these layers: the last that names a layer decides. */
export function decided(overrides: Overrides, names: readonly string[]): Decided {
  let found = remembered.get(overrides);
  if (found?.names !== names) {
    found = decide(overrides, names);
    remembered.set(overrides, found);
  }
  return found;
}

function decide(overrides: Overrides, names: readonly string[]): Decided {
  const own: (Override | null)[] = names.map(() => null);
  const { globs } = indexOf(overrides);
  if (globs.length > 0 && tooMany(overrides, names)) return { names, own, unmatched: null, tooMany: globs.length };
  const places = overrides.length > 0 ? placesOf(names) : new Map<string, number[]>();
  const spelled = globs.length > 0 ? [...places].map(([name, found]) => [[...name], found] as const) : [];
  const wild = new Map(globs);
  let unmatched: string | null = null;
  overrides.forEach(([key, override], i) => {
    const glob = wild.get(i);
    const matched = glob ? spelled.flatMap(([name, found]) => (globMatches(glob, name) ? found : [])) : [];
    const all = [...(places.get(key) ?? []), ...matched];
    if (all.length === 0) unmatched ??= key;
    for (const layer of all) own[layer] = override;
  });
  return { names, own, unmatched, tooMany: 0 };
}

function tooMany(overrides: Overrides, names: readonly string[]): boolean {
  const globs = overrides.map(([key]) => key).filter(isGlob);
  return globs.length * names.length > MOST_MATCHES || letters(globs) * letters(names) > MOST_LETTERS;
}

/** Letters in all, as Python counts them. */
function letters(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + [...text].length, 0);
}

/** The indices of the layers that go by a name, with or without ".weight". */
function placesOf(names: readonly string[]): Map<string, number[]> {
  const places = new Map<string, number[]>();
  names.forEach((name, i) => {
    for (const one of new Set([name, layerLabel(name)])) {
      const found = places.get(one);
      if (found) found.push(i);
      else places.set(one, [i]);
    }
  });
  return places;
}
