import { expect, it } from "vitest";
import { TabMemory } from "./restore-tab-state";

function storage(): Storage {
  const values = new Map<string, string>();
  return {
    getItem: (key: string) => values.get(key) ?? null,
    setItem: (key: string, value: string) => void values.set(key, value),
    removeItem: (key: string) => void values.delete(key),
  } as Storage;
}

it("remembers each path by itself, change by change, until it is cleared", () => {
  const kept = storage();
  const memory = new TabMemory("a.safetensors", kept);
  memory.set({ open: ["model"] });
  memory.set({ query: "norm" });
  expect(new TabMemory("a.safetensors", kept).get()).toEqual({ open: ["model"], query: "norm" });
  expect(new TabMemory("b.safetensors", kept).get()).toEqual({});
  memory.clear();
  expect(memory.get()).toEqual({});
});

it("begins anew where there is nothing to read or nothing can be kept", () => {
  const kept = storage();
  kept.setItem("shrinkwidget:a", "{");
  expect(new TabMemory("a", kept).get()).toEqual({});
  const full = {
    ...kept,
    setItem: () => {
      throw new Error("full");
    },
  };
  expect(() => new TabMemory("a", full).set({ query: "" })).not.toThrow();
});
