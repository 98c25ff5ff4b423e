// The length is that of the kernel's zlib, whatever the bytes. Node's own zlib finds other matches, so the vectors hold it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { deflatedLength } from "./deflated-length";

const FILE = join(import.meta.dirname, "../../tests/vectors/deflated/texts.json");
const texts: Record<string, string> = JSON.parse(readFileSync(FILE, "utf8"));

describe("the length of what zlib makes", () => {
  it.each(Object.keys(texts))("of %s", (name) => {
    const folded = Buffer.from(texts[name], "base64");
    expect(deflatedLength(inflateSync(folded))).toBe(folded.length);
  });

  it("is known of more than a handful of texts", () => {
    expect(Object.keys(texts).length).toBeGreaterThan(8);
  });
});
