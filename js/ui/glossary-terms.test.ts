// What the page says of a term is what the glossary says first.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { TERMS } from "./glossary-terms";

const glossary = readFileSync(join(import.meta.dirname, "../../docs/glossary.md"), "utf8");
const entries = new Map(
  [...glossary.matchAll(/^### (.+)\n\n((?:.+\n)+)/gm)].map(([, title, body]) => [
    title
      .toLowerCase()
      .replace(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
    { title, body },
  ]),
);

/** The first sentence of an entry as plain text, without what it refers to. */
function firstSentence(body: string): string {
  const plain = body
    .replaceAll("\n", " ")
    .replace(/\[([^\]]+)\]\([^)]*\)/g, "$1")
    .replace(/[`*]/g, "");
  return plain.match(/.+?\.(?=\s|$)/)?.[0].replace(/; see .*\.$/, ".") ?? "";
}

it("finds the entries of the glossary", () => {
  expect(entries.size).toBeGreaterThan(50);
});

it.each(Object.entries(TERMS))("explains %s as the glossary does", (anchor, { title, text }) => {
  const entry = entries.get(anchor);
  expect(entry?.title).toBe(title);
  expect(firstSentence(entry?.body ?? "")).toBe(text);
});
