// The tensors of a checkpoint as a tree of modules, in which blocks that repeat are one node, ×N.

import type { CheckpointTable } from "./checkpoint-table";

export interface Node {
  /** The last part of the name, "norm.weight" for a module of one tensor, or "0…31" for blocks that repeat. */
  name: string;
  /** The whole name; of a repeated block that of the first. */
  path: string;
  /** Index of the tensor, or -1 for a module. */
  tensor: number;
  children: Node[];
  /** How many blocks of the same names, shapes and dtypes it stands for. */
  times: number;
  parameters: number;
  bytes: number;
  /** Those of its tensors, in the order of their first. */
  dtypes: readonly string[];
}

export type SortKey = "name" | "parameters" | "bytes";

/** Null for the order in the file. */
export type Sort = { by: SortKey; descending: boolean } | null;

export interface Row {
  node: Node;
  depth: number;
  open: boolean;
}

export function buildTree({ tensors }: CheckpointTable): Node {
  const root = module("", "");
  const modules = new Map<string, Node>([["", root]]);
  const moduleAt = (path: string): Node => {
    let found = modules.get(path);
    if (!found) {
      found = module(lastPart(path), path);
      modules.set(path, found);
      moduleAt(outerPath(path)).children.push(found);
    }
    return found;
  };
  tensors.name.forEach((path, tensor) => {
    moduleAt(outerPath(path)).children.push(leaf(tensors, tensor, lastPart(path)));
  });
  finish(root, ({ tensor }) => `${tensors.shape[tensor].join("×")} ${tensors.dtype[tensor]}`);
  return root;
}

// A longer name is a file's mischief and stays whole: a module within a module for each of its dots would end the stack.
const LONGEST_NAME = 1000;

function outerPath(path: string): string {
  return path.length > LONGEST_NAME ? "" : path.slice(0, Math.max(0, path.lastIndexOf(".")));
}

function lastPart(path: string): string {
  return path.length > LONGEST_NAME ? path : path.slice(path.lastIndexOf(".") + 1);
}

function module(name: string, path: string): Node {
  return { name, path, tensor: -1, children: [], times: 1, parameters: 0, bytes: 0, dtypes: [] };
}

function leaf(tensors: CheckpointTable["tensors"], tensor: number, name: string): Node {
  const parameters = tensors.shape[tensor].reduce((product, size) => product * size, 1);
  const { [tensor]: bytes } = tensors.bytes;
  const dtypes = [tensors.dtype[tensor]];
  return { name, path: tensors.name[tensor], tensor, children: [], times: 1, parameters, bytes, dtypes };
}

/** Add up a module and fold those of its children that repeat; return what tells it from others besides its name. */
function finish(node: Node, ofTensor: (leaf: Node) => string): string {
  if (node.tensor >= 0) return ofTensor(node);
  const signatures = node.children.map((child) => finish(child, ofTensor));
  const dtypes = new Set<string>();
  for (const child of node.children) {
    node.parameters += child.parameters;
    node.bytes += child.bytes;
    for (const dtype of child.dtypes) dtypes.add(dtype);
  }
  node.dtypes = [...dtypes];
  const whole = node.children.map((child, i) => `${child.name}(${signatures[i]})`).join();
  node.children = foldRepeats(node.children, signatures).map(withOnlyTensor);
  return whole;
}

/** A module of a single tensor is one row with it; blocks that repeat stay what can be counted. */
function withOnlyTensor(node: Node): Node {
  const [only] = node.children;
  if (node.times > 1 || node.children.length !== 1 || only.tensor < 0) return node;
  return { ...only, name: `${node.name}.${only.name}` };
}

/** Neighbours that are numbered one after the other, and hold the same, become one node. */
function foldRepeats(children: Node[], signatures: readonly string[]): Node[] {
  const numbered = [...children.keys()].filter((i) => children[i].tensor < 0 && /^\d+$/.test(children[i].name));
  const number = (i: number) => Number(children[i].name);
  numbered.sort((a, b) => number(a) - number(b));
  const runs: number[][] = [];
  for (const i of numbered) {
    const run = runs.at(-1);
    if (run && number(i) === number(run[run.length - 1]) + 1 && signatures[i] === signatures[run[0]]) run.push(i);
    else runs.push([i]);
  }
  const folded = new Map(runs.filter((run) => run.length > 1).map((run) => [run[0], run.map((i) => children[i])]));
  const gone = new Set(runs.flatMap((run) => run.slice(1)));
  return children.flatMap((child, i) => {
    const run = folded.get(i);
    if (gone.has(i)) return [];
    if (!run) return [child];
    const name = `${child.name}…${run[run.length - 1].name}`;
    const total = (of: "bytes" | "parameters") => run.reduce((sum, each) => sum + each[of], 0);
    const sums = { times: run.length, bytes: total("bytes"), parameters: total("parameters") };
    return [{ ...child, ...sums, name }];
  });
}

const { compare } = new Intl.Collator("en", { numeric: true });

function sorted(nodes: readonly Node[], sort: Sort): readonly Node[] {
  if (!sort) return nodes;
  const { by, descending } = sort;
  const sign = descending ? -1 : 1;
  return [...nodes].sort((a, b) => sign * (by === "name" ? compare(a.path, b.path) : a[by] - b[by]));
}

/** The rows to show: the tree as far as it is open. */
export function treeRows(root: Node, open: ReadonlySet<string>, sort: Sort): Row[] {
  const rows: Row[] = [];
  const visit = (nodes: readonly Node[], depth: number) => {
    for (const node of sorted(nodes, sort)) {
      const isOpen = node.tensor < 0 && open.has(node.path);
      rows.push({ node, depth, open: isOpen });
      if (isOpen) visit(node.children, depth + 1);
    }
  };
  visit(root.children, 0);
  return rows;
}

/** The paths of all modules in a tree. */
export function modulePaths(node: Node): string[] {
  return node.children.flatMap((child) => (child.tensor < 0 ? [child.path, ...modulePaths(child)] : []));
}

/** The other names of tensors that have several. */
export function otherNames({ tied }: CheckpointTable): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const [alias, name] of tied) found.set(name, [...(found.get(name) ?? []), alias]);
  return found;
}

/** What a search looks at, for each tensor: its names and dtype, in lower case. */
export function searchTexts(table: CheckpointTable): string[] {
  const others = otherNames(table);
  const { name: names, dtype } = table.tensors;
  return names.map((name, i) => [name, ...(others.get(name) ?? []), dtype[i]].join(" ").toLowerCase());
}

/** The rows of a search: every tensor in whose names and dtype all its words are, in any case and order. */
export function foundRows({ tensors }: CheckpointTable, texts: readonly string[], query: string, sort: Sort): Row[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found: Node[] = [];
  texts.forEach((text, tensor) => {
    if (words.every((word) => text.includes(word))) found.push(leaf(tensors, tensor, tensors.name[tensor]));
  });
  return sorted(found, sort).map((node) => ({ node, depth: 0, open: false }));
}
