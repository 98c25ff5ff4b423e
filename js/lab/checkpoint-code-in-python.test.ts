import { expect, it } from "vitest";
import { convertCode, literal, openCode, tensorCode } from "./checkpoint-code-in-python";

const PLAIN = { sparsity: null, bits: null };

it("quotes names as Python does, whatever is in them", () => {
  expect(literal('a"b\\c\n')).toBe('"a\\"b\\\\c\\n"');
  expect(literal("é😀")).toBe('"\\U000000e9\\U0001f600"');
});

it("opens each format with what reads it, where the settings start", () => {
  expect(openCode("a.safetensors", "safetensors", PLAIN)).toContain('sw.explore("a.safetensors")');
  expect(openCode("a", "safetensors", { sparsity: 0.9, bits: 4 })).toContain('sw.explore("a", sparsity=0.9, bits=4)');
  expect(openCode("a.safetensors", "shrinkwidget", { sparsity: 0.9, bits: 4 })).toContain('sw.load("a.safetensors")');
  expect(openCode("a.gguf", "gguf", PLAIN)).toContain('GGUFReader("a.gguf")');
});

it("reads one tensor", () => {
  expect(tensorCode("a.gguf", "gguf", "x")).toContain('tensor.name == "x"');
  expect(tensorCode("a.safetensors", "safetensors", "x")).toContain('file.get_tensor("x")');
});

it("writes a pickle beside itself", () => {
  expect(convertCode("runs/v1.2/model.pt")).toContain('"runs/v1.2/model.safetensors")');
});
