// A gesture is one step back.
import { expect, it } from "vitest";
import { UndoStack } from "./undo";

function drag(past: UndoStack<number>, from: number, to: number): number {
  for (let value = from; value < to; value++) past.record(value, "sparsity");
  past.pause();
  return to;
}

it("undoes a whole drag at once, and redoes it", () => {
  const past = new UndoStack<number>(() => 0);
  const end = drag(past, 0, 50);
  expect(past.undo(end)).toBe(0);
  expect(past.canUndo).toBe(false);
  expect(past.redo(0)).toBe(50);
});

it("keeps two drags apart", () => {
  const past = new UndoStack<number>(() => 0);
  drag(past, 0, 10);
  drag(past, 10, 20);
  expect(past.undo(20)).toBe(10);
  expect(past.undo(10)).toBe(0);
  expect(past.undo(0)).toBeUndefined();
});

it("takes a pause for the end of a burst of keys", () => {
  let time = 0;
  const past = new UndoStack<number>(() => time);
  past.record(0, "sparsity");
  time = 100;
  past.record(1, "sparsity");
  time = 2000;
  past.record(2, "sparsity");
  expect(past.undo(3)).toBe(2);
  expect(past.undo(2)).toBe(0);
});

it("forgets what was undone once something else is done", () => {
  const past = new UndoStack<number>(() => 0);
  past.record(0, "");
  past.undo(1);
  past.record(0, "");
  expect(past.canRedo).toBe(false);
});

it("does not end a drag that is held, however long nothing moves", () => {
  let time = 0;
  const past = new UndoStack<number>(() => time);
  past.record(0, "sparsity", true);
  time = 5000;
  past.record(1, "sparsity", true);
  expect(past.undo(2)).toBe(0);
  expect(past.canUndo).toBe(false);
});
