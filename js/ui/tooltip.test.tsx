// @vitest-environment happy-dom
// The tip stands where there is room for it.
import { signal } from "@preact/signals";
import { render } from "preact";
import { expect, it } from "vitest";
import { type Tip, Tooltip, tipAt } from "./tooltip";

function placed(clientX: number, clientY: number, rootTop = 0): string {
  const [root, tip] = [document.createElement("div"), signal<Tip | null>(null)];
  root.getBoundingClientRect = () => new DOMRect(0, rootTop, 1000, 600);
  tipAt({ root, tip }, { clientX, clientY }, "layer", ["a line", "another"]);
  render(<Tooltip tip={tip.value} within={1000} />, root);
  return (root.firstElementChild as HTMLElement).style.transform;
}

it("is below the pointer and right of it, above at the bottom of the window, left at the right edge", () => {
  expect(placed(10, 10)).toBe("translate(24px, 24px) translate(0, 0)");
  expect(placed(10, innerHeight - 20)).toBe(`translate(24px, ${innerHeight - 30}px) translate(0, -100%)`);
  expect(placed(900, 10)).toBe("translate(888px, 24px) translate(-100%, 0)");
});

it("is never above the root, where Jupyter would cut it off", () => {
  const bottom = innerHeight - 20;
  expect(placed(10, bottom, bottom - 50)).toBe("translate(24px, 64px) translate(0, 0)");
  expect(placed(10, bottom, bottom - 200)).toBe("translate(24px, 190px) translate(0, -100%)");
  expect(placed(10, 30, -500)).toBe("translate(24px, 544px) translate(0, 0)");
});
