// @vitest-environment happy-dom
// Drawings: one that fails is reported, and the next state is drawn.
import { signal } from "@preact/signals";
import { render } from "preact";
import { act } from "preact/test-utils";
import { expect, it, vi } from "vitest";
import { useDrawing } from "./size-and-drawing-hooks";

it("draws the next state after one that could not be drawn", () => {
  const report = vi.fn();
  vi.stubGlobal("reportError", report);
  const state = signal("broken");
  const drawn: string[] = [];
  function Chart() {
    useDrawing(() => {
      if (state.value === "broken") throw new Error("cannot be drawn");
      drawn.push(state.value);
    });
    return null;
  }
  const root = document.createElement("div");
  act(() => render(<Chart />, root));
  for (const next of ["first", "broken", "second"]) state.value = next;
  expect(drawn).toEqual(["first", "second"]);
  expect(report).toHaveBeenCalledTimes(2);
  render(null, root);
  vi.unstubAllGlobals();
});
