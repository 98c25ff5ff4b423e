import { expect, it } from "vitest";
import type { CheckpointTable } from "./checkpoint-table";
import { buildTree, foundRows, modulePaths, type Sort, searchTexts, treeRows } from "./checkpoint-tree-and-search";

/** A table of float32 tensors by name and shape. */
function table(tensors: [string, number[]][]): CheckpointTable {
  const bytes = tensors.map(([, shape]) => 4 * shape.reduce((a, b) => a * b, 1));
  const columns = {
    name: tensors.map(([name]) => name),
    shape: tensors.map(([, shape]) => shape),
    dtype: tensors.map(() => "F32"),
    bytes,
    file: tensors.map(() => 0),
  };
  return {
    title: "",
    format: "safetensors",
    files: [],
    tensors: columns,
    dtypes: [],
    tied: [],
    metadata: {},
    packed: null,
  };
}

const BLOCKS = [0, 1, 2, 10, 11].flatMap((i): [string, number[]][] => [
  [`layers.${i}.attn.weight`, [4, 4]],
  [`layers.${i}.norm`, [i === 2 ? 5 : 4]],
]);
const MODEL = table([["embed.weight", [10, 4]], ...BLOCKS, ["head", [1]]]);

it("folds blocks that follow each other and hold the same", () => {
  const root = buildTree(MODEL);
  const layers = root.children[1];
  expect(layers.children.map((node) => [node.name, node.times])).toEqual([
    ["0…1", 2],
    ["2", 1],
    ["10…11", 2],
  ]);
  expect(layers.children[0].bytes).toBe(2 * (64 + 16));
  expect(layers.children[0].parameters).toBe(2 * 20);
  expect(root.bytes).toBe(MODEL.tensors.bytes.reduce((a, b) => a + b, 0));
});

it("finds the blocks in whatever order the file has them", () => {
  const shuffled = table([11, 1, 10, 0].map((i) => [`layers.${i}.weight`, [3]]));
  expect(buildTree(shuffled).children[0].children.map((node) => [node.name, node.times])).toEqual([
    ["10…11", 2],
    ["0…1", 2],
  ]);
});

it("shows a module of one tensor as one row, and folds blocks of one tensor", () => {
  const root = buildTree(
    table([["a.b.weight", [3]], ...[0, 1, 2].map((i): [string, number[]] => [`a.scales.${i}.weight`, [2]])]),
  );
  expect(root.children[0].children.map((node) => [node.name, node.tensor])).toEqual([
    ["b.weight", 0],
    ["scales", -1],
  ]);
  const [folded] = root.children[0].children[1].children;
  expect([folded.name, folded.times, folded.children[0].name]).toEqual(["0…2", 3, "weight"]);
});

it("does not fold blocks of other dtypes", () => {
  const mixed = table([
    ["0.weight", [3]],
    ["1.weight", [3]],
  ]);
  mixed.tensors.dtype[1] = "I32";
  expect(buildTree(mixed).children).toHaveLength(2);
});

it("shows as much of the tree as is open", () => {
  const root = buildTree(MODEL);
  expect(treeRows(root, new Set(), null).map((row) => row.node.name)).toEqual(["embed.weight", "layers", "head"]);
  const opened = treeRows(root, new Set(["layers", "layers.0"]), null).map((row) => [row.node.name, row.depth]);
  expect(opened.slice(1, 5)).toEqual([
    ["layers", 0],
    ["0…1", 1],
    ["attn.weight", 2],
    ["norm", 2],
  ]);
});

it("sorts siblings by size and by name, either way", () => {
  const root = buildTree(MODEL);
  const names = (sort: Sort) => treeRows(root, new Set(), sort).map((row) => row.node.name);
  expect(names({ by: "bytes", descending: true })).toEqual(["layers", "embed.weight", "head"]);
  expect(names({ by: "parameters", descending: false })).toEqual(["head", "embed.weight", "layers"]);
  expect(names({ by: "name", descending: false })).toEqual(["embed.weight", "head", "layers"]);
});

it("tells which dtypes a module holds, and which modules there are", () => {
  const mixed = table([
    ["a.b.c", [3]],
    ["a.b.d", [3]],
    ["a.e", [1]],
  ]);
  mixed.tensors.dtype[1] = "I32";
  const root = buildTree(mixed);
  expect(root.children[0].dtypes).toEqual(["F32", "I32"]);
  expect(modulePaths(root)).toEqual(["a", "a.b"]);
});

it("finds tensors by words of their names, in any order and case", () => {
  const found = (query: string) => foundRows(MODEL, searchTexts(MODEL), query, null).map((row) => row.node.path);
  expect(found("ATTN layers.1")).toEqual(["layers.1.attn.weight", "layers.10.attn.weight", "layers.11.attn.weight"]);
  expect(found("i32")).toEqual([]);
});

it("finds a tensor by a name that is tied to it", () => {
  const tied = { ...MODEL, tied: [["lm_head.weight", "embed.weight"]] as [string, string][] };
  const found = foundRows(tied, searchTexts(tied), "lm_head", null);
  expect(found.map((row) => row.node.path)).toEqual(["embed.weight"]);
});

it("takes names that are prefixes of others", () => {
  const root = buildTree(
    table([
      ["a", [2]],
      ["a.b", [2]],
      ["", [1]],
    ]),
  );
  expect(root.children.map((node) => [node.name, node.tensor])).toEqual([
    ["a", 0],
    ["a.b", 1],
    ["", 2],
  ]);
});

it("keeps a name whole that is longer than any model's, whatever dots it has", () => {
  const name = "a.".repeat(100_000);
  const root = buildTree(
    table([
      [name, [2]],
      ["b.weight", [3]],
    ]),
  );
  expect(root.children.map((node) => node.name)).toEqual([name, "b.weight"]);
  expect(root.parameters).toBe(5);
});
