import { expect, it, vi } from "vitest";
import { ComparisonClient, sortedRows, type TensorChange, type TensorRow } from "./comparison-client";
import type { Connection } from "./sketch-client";

function row(name: string, found: Partial<TensorChange> | null, message = ""): TensorRow {
  const change = found && { n: 10, change: 0, changed: 0, zeros: [0, 0] as const, span: 1, counts: [[], []] as const };
  return {
    name,
    shape: [10],
    dtypes: ["F32", "F32"],
    nbytes: 40,
    found: change && { ...change, ...found },
    message,
  };
}

it("sorts by what changed, with what cannot be compared at the end", () => {
  const rows = [
    row("same", { change: 0 }),
    row("failed", null, "no values"),
    row("new", { change: Number.POSITIVE_INFINITY, changed: 2 }),
    row("waits", null),
    row("much", { change: 2, changed: 9, zeros: [1, 4] }),
    row("little", { change: 0.1, changed: 10, zeros: [4, 1] }),
  ];
  const names = (...how: [Parameters<typeof sortedRows>[1], boolean]) => sortedRows(rows, ...how).map((r) => r.name);
  expect(names("change", true)).toEqual(["new", "much", "little", "same", "waits", "failed"]);
  expect(names("change", false)).toEqual(["same", "little", "much", "new", "waits", "failed"]);
  expect(names("changed", true).slice(0, 2)).toEqual(["little", "much"]);
  expect(names("zeros", true)[0]).toBe("much");
  expect(names("name", false)[0]).toBe("failed");
});

it("hears tensor after tensor, and numbers that JSON has not", () => {
  vi.useFakeTimers();
  const close = vi.fn();
  const wire = { close, onmessage: null, onclose: null } as unknown as Connection;
  const client = new ComparisonClient(wire);
  const say = (message: object) =>
    wire.onmessage?.call(wire as never, { data: JSON.stringify(message) } as MessageEvent);
  const tensors = ["a", "b", "c"].map((name) => ({ name, shape: [10], dtypes: ["F32", "F32"], nbytes: 80 }));
  say({ state: "queued", place: 3 });
  expect(client.found.value.place).toBe(3);
  say({ state: "comparison", titles: ["x", "y"], tensors, only: [["d"], []], reshaped: [] });
  expect(client.found.value).toMatchObject({ place: 0, total: 240, bytes: 0, titles: ["x", "y"] });
  const about = { n: 10, changed: 3, zeros: [0, 2], span: 2, counts: [[1], [2]] };
  say({ state: "tensor", name: "b", change: "inf", ...about });
  say({ state: "tensor", name: "a", change: "nan", ...about });
  say({ state: "tensor_failed", name: "c", message: "why" });
  vi.advanceTimersByTime(300);
  const { rows, bytes } = client.found.value;
  expect(rows.map(({ found }) => found?.change)).toEqual([Number.NaN, Number.POSITIVE_INFINITY, undefined]);
  expect(rows[2].message).toBe("why");
  expect(bytes).toBe(240);
  say({ state: "done" });
  expect(client.found.value.phase).toBe("done");
  expect(close).toHaveBeenCalled();
});
