// @vitest-environment happy-dom
// The line of work that the kernel does.
import { render } from "preact";
import { expect, it } from "vitest";
import { WorkLine } from "./progress-line";

it("says how far it is, shows that as a bar, and can be stopped", () => {
  let stopped = 0;
  const stop = () => {
    stopped++;
  };
  const words = "recovering: layer 3 of 10";
  render(<WorkLine words={words} done={0.3} stop={stop} testid="work" stopId="stop-work" />, document.body);
  expect(document.querySelector("[data-testid=work] p")?.textContent).toBe(`${words} stop`);
  expect(document.querySelector<HTMLElement>(".sw-progress i")?.style.width).toBe("30%");
  document.querySelector<HTMLButtonElement>("[data-testid=stop-work]")?.click();
  expect(stopped).toBe(1);
});
