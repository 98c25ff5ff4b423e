// What the panel "By class" says of a comparison: every class, the worst first where they are many, and what is lost.
import { describe, expect, it } from "vitest";
import { changes, changeText, drawn, MOST_CLASSES, summary } from "./by-class";
import type { ByClass } from "./host-interface";

const plain = (text: string) => text.replaceAll("\u00a0", " ");
const found = (classes: ByClass["classes"], more: Partial<ByClass> = {}): ByClass => ({
  recipe: "{}",
  recalibrated: false,
  n: 100,
  only_classes: "",
  classes,
  misread: 30,
  fixed: 2,
  confusions: [],
  images: [],
  ...more,
});

describe("changes by class", () => {
  const [lost, fine, empty, few] = changes(
    found([
      [20, 19, 1, 19, 1],
      [40, 38, 38, 39, 58],
      [0, 0, 0, 1, 0],
      [4, 4, 0, 4, 0],
    ]),
  );

  it("are shares of a class's own examples", () => {
    expect(lost).toMatchObject({ label: 0, n: 20, before: 0.95, after: 0.05, predicted: [19, 1] });
    expect(plain(changeText(fine))).toBe("95 → 95 %");
  });

  it("call a class lost that was right mostly and is wrong mostly, if there are enough examples to tell", () => {
    expect([lost.lost, fine.lost, empty.lost, few.lost]).toEqual([true, false, false, false]);
  });

  it("leave out classes without examples", () => {
    expect(drawn([lost, fine, empty, few]).map((one) => one.label)).toEqual([0, 1, 3]);
  });

  it("of many classes are drawn for those that fell furthest", () => {
    const many = changes(found(Array.from({ length: 100 }, (_, i) => [100, 90, i, 90, i] as const)));
    expect(drawn(many).map((one) => one.label)).toEqual(Array.from({ length: MOST_CLASSES }, (_, i) => i));
  });
});

describe("the summary", () => {
  const say = (classes: ByClass["classes"], more: Partial<ByClass> = {}) => plain(summary(found(classes, more)));

  it("names what is lost", () => {
    expect(
      say([
        [20, 20, 0, 20, 0],
        [20, 19, 12, 20, 9],
      ]),
    ).toBe("lost: class 0 (100 → 0 %) · 30 misread that were right, 2 fixed");
    const five = Array.from({ length: 5 }, () => [10, 10, 0, 10, 0] as const);
    expect(say(five)).toContain("lost: class 0 (100 → 0 %), 1 (100 → 0 %), 2 (100 → 0 %) and 2 more");
  });

  it("names the class that fell furthest, or says that none did", () => {
    expect(
      say([
        [20, 20, 18, 20, 18],
        [20, 20, 15, 20, 15],
      ]),
    ).toBe("most lost: class 1, 100 → 75 % · 30 misread that were right, 2 fixed");
    expect(say([[20, 19, 20, 19, 20]], { misread: 0, fixed: 0 })).toBe(
      "no class does worse · nothing misread that was right",
    );
  });

  it("has no examples where none could be compared", () => {
    expect(say([[20, 20, 15, 20, 15]], { only_classes: "labels 20×8×8" })).toBe("most lost: class 0, 100 → 75 %");
  });
});
