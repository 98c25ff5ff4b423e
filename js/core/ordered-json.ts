// JSON as the recipe needs it: objects that keep the order of keys such as "0", and numbers without exponents.

import { quoteName } from "./quote-name";

/** A parsed JSON value whose objects are maps, in the order of the text. */
export type Json = null | boolean | number | string | Json[] | JsonMap;
export interface JsonMap extends Map<string, Json> {}

const TOKEN = /[{}[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}[\],:"]+/g;

/**
 * Parse JSON text; throws a SyntaxError like `JSON.parse`, which would put keys that look like numbers first, and take
 * the last of two equal keys, which is refused here.
 */
export function parseOrdered(text: string): Json {
  JSON.parse(text); // from here on the text is known to be valid
  // Good enough for a tokenizer, since the text is valid: braces, commas and colons, strings, and whatever else stands
  // between them.
  const tokens = text.match(TOKEN) ?? [];
  let at = 0;

  function value(): Json {
    const token = tokens[at++];
    if (token === "[") return list();
    if (token === "{") return map();
    return JSON.parse(token);
  }
  function list(): Json[] {
    const items: Json[] = [];
    while (tokens[at] !== "]") {
      items.push(value());
      if (tokens[at] === ",") at++;
    }
    at++;
    return items;
  }
  function map(): JsonMap {
    const entries: JsonMap = new Map();
    while (tokens[at] !== "}") {
      const key: string = JSON.parse(tokens[at]);
      if (entries.has(key)) throw new SyntaxError(`it has the key ${quoteName(key)} twice`);
      at += 2;
      entries.set(key, value());
      if (tokens[at] === ",") at++;
    }
    at++;
    return entries;
  }
  return value();
}

/** The text of a finite number without an exponent: the twin of Python's `format(Decimal(repr(x)), "f")`. */
export function plainNumber(x: number): string {
  const [digits, exponent] = String(x).split("e");
  if (exponent === undefined) return Object.is(x, -0) ? "0" : digits;
  const sign = digits.startsWith("-") ? "-" : "";
  const [whole, part = ""] = digits.replace("-", "").split(".");
  const shift = Number(exponent);
  if (shift < 0) return `${sign}0.${"0".repeat(-shift - 1)}${whole}${part}`;
  return sign + whole + part.padEnd(shift, "0");
}
