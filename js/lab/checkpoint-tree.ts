// The tensors of a checkpoint as a tree of modules, in which blocks that repeat are one node, ×N.

import type { CheckpointTable } from "./checkpoint-table";

export interface Node {
  /** The last part of the name, or "0…31" for blocks that repeat. */
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
}

export type SortKey = "file" | "name" | "bytes";

export interface Row {
  node: Node;
  depth: number;
  open: boolean;
}

/** What tells two modules apart besides their names; the same for blocks that repeat. */
const signatures = new WeakMap<Node, string>();

export function buildTree({ tensors }: CheckpointTable): Node {
  const root = module("", "");
  const modules = new Map<string, Node>([["", root]]);
  tensors.name.forEach((path, tensor) => {
    const parts = path.split(".");
    let parent = root;
    parts.slice(0, -1).forEach((part, depth) => {
      const key = parts.slice(0, depth + 1).join(".");
      let found = modules.get(key);
      if (!found) {
        found = module(part, key);
        modules.set(key, found);
        parent.children.push(found);
      }
      parent = found;
    });
    const leaf = module(parts[parts.length - 1], path);
    leaf.tensor = tensor;
    leaf.bytes = tensors.bytes[tensor];
    leaf.parameters = tensors.shape[tensor].reduce((product, size) => product * size, 1);
    signatures.set(leaf, `${tensors.shape[tensor].join("×")} ${tensors.dtype[tensor]}`);
    parent.children.push(leaf);
  });
  return finished(root);
}

function module(name: string, path: string): Node {
  return { name, path, tensor: -1, children: [], times: 1, parameters: 0, bytes: 0 };
}

/** Add up a module, and fold those of its children that repeat. */
function finished(node: Node): Node {
  if (node.tensor >= 0) return node;
  node.children = node.children.map(finished);
  node.parameters = node.children.reduce((sum, child) => sum + child.parameters, 0);
  node.bytes = node.children.reduce((sum, child) => sum + child.bytes, 0);
  signatures.set(node, node.children.map((child) => `${child.name}(${signatures.get(child)})`).join());
  node.children = foldRepeats(node.children);
  return node;
}

/** Neighbours that are numbered one after the other, and hold the same, become one node. */
function foldRepeats(children: Node[]): Node[] {
  const numbered = children.filter((child) => child.tensor < 0 && /^\d+$/.test(child.name));
  numbered.sort((a, b) => Number(a.name) - Number(b.name));
  const runs: Node[][] = [];
  for (const child of numbered) {
    const run = runs.at(-1);
    const last = run?.at(-1);
    const next = last && Number(child.name) === Number(last.name) + 1;
    if (run && next && signatures.get(child) === signatures.get(run[0])) run.push(child);
    else runs.push([child]);
  }
  const folded = new Map(runs.filter((run) => run.length > 1).map((run) => [run[0], run]));
  const gone = new Set([...folded.values()].flatMap((run) => run.slice(1)));
  return children.flatMap((child) => {
    const run = folded.get(child);
    if (gone.has(child)) return [];
    if (!run) return [child];
    const name = `${child.name}…${run[run.length - 1].name}`;
    const total = (of: "bytes" | "parameters") => run.reduce((sum, each) => sum + each[of], 0);
    const sums = { times: run.length, bytes: total("bytes"), parameters: total("parameters") };
    return [{ ...child, ...sums, name }];
  });
}

const BY_NAME = new Intl.Collator("en", { numeric: true }).compare;

function sorted(nodes: readonly Node[], key: SortKey): readonly Node[] {
  if (key === "file") return nodes;
  return [...nodes].sort((a, b) => (key === "bytes" ? b.bytes - a.bytes : BY_NAME(a.path, b.path)));
}

/** The rows to show: the tree as far as it is opened. */
export function treeRows(root: Node, open: ReadonlySet<string>, key: SortKey): Row[] {
  const rows: Row[] = [];
  const visit = (nodes: readonly Node[], depth: number) => {
    for (const node of sorted(nodes, key)) {
      const isOpen = open.has(node.path);
      rows.push({ node, depth, open: isOpen });
      if (isOpen) visit(node.children, depth + 1);
    }
  };
  visit(root.children, 0);
  return rows;
}

/** The rows of a search: every tensor whose name holds the words, in any case and order. */
export function foundRows({ tensors }: CheckpointTable, query: string, key: SortKey): Row[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found: Node[] = [];
  tensors.name.forEach((path, tensor) => {
    const text = `${path} ${tensors.dtype[tensor]}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) return;
    const parameters = tensors.shape[tensor].reduce((product, size) => product * size, 1);
    found.push({ name: path, path, tensor, children: [], times: 1, parameters, bytes: tensors.bytes[tensor] });
  });
  return sorted(found, key).map((node) => ({ node, depth: 0, open: false }));
}
