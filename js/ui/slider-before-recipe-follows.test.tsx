// @vitest-environment happy-dom
// The slider between an input and the frame in which its recipe follows.
import { render } from "preact";
import { expect, it } from "vitest";
import { PercentSlider } from "./inputs";

it("stays where it was moved until the recipe follows: the next key goes on from there", async () => {
  const asked: number[] = [];
  const change = (value: number) => asked.push(value);
  const slider = (
    <PercentSlider label="" value={0.5} valueText="" hint="" testid="" change={change} settle={() => {}} />
  );
  render(slider, document.body);
  const input = document.querySelector("input[type=range]") as HTMLInputElement;
  input.value = "50.1";
  input.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise((done) => setTimeout(done, 20));
  expect(asked).toEqual([0.501]);
  expect(input.value).toBe("50.1");
});
