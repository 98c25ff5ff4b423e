// Shell-style name patterns, exactly as Python's `fnmatch.fnmatchcase` reads them: `*`, `?`, `[…]`, `[!…]`.

type Token = "any" | "star" | { not: boolean; ranges: [string, string][] };

/** A pattern made ready to be held against many names. */
export type Glob = readonly Token[];

/** Whether a key means more than its own text. */
export function isGlob(key: string): boolean {
  return /[*?[]/.test(key);
}

/** Make a pattern ready. */
export function compileGlob(pattern: string): Glob {
  return tokenize([...pattern]);
}

/** Whether the whole of a name, given as its letters, matches; letter case matters. */
export function globMatches(tokens: Glob, text: readonly string[]): boolean {
  let t = 0;
  let i = 0;
  let star = -1;
  let resume = 0;
  // Greedy with one point to go back to, the last star: linear for most patterns, and never exponential as backtracking
  // into earlier stars would be.
  while (i < text.length) {
    const token = tokens[t];
    if (token === "star") {
      star = t++;
      resume = i;
    } else if (token !== undefined && accepts(token, text[i])) {
      t++;
      i++;
    } else if (star >= 0) {
      t = star + 1;
      i = ++resume; // let the last star take one character more
    } else {
      return false;
    }
  }
  while (tokens[t] === "star") t++;
  return t === tokens.length;
}

function accepts(token: Exclude<Token, "star">, char: string): boolean {
  if (token === "any") return true;
  const point = char.codePointAt(0)!;
  const inside = token.ranges.some(([a, b]) => a.codePointAt(0)! <= point && point <= b.codePointAt(0)!);
  return inside !== token.not;
}

function tokenize(pattern: string[]): Token[] {
  const tokens: Token[] = [];
  for (let i = 0; i < pattern.length; ) {
    const char = pattern[i++];
    const end = char === "[" ? setEnd(pattern, i) : -1;
    if (end >= 0) {
      tokens.push(charSet(pattern.slice(i, end)));
      i = end + 1;
    } else {
      tokens.push(char === "*" ? "star" : char === "?" ? "any" : literal(char));
    }
  }
  return tokens;
}

function literal(char: string): Token {
  return { not: false, ranges: [[char, char]] };
}

/** Where the set that starts at `from` ends, or -1: a `]` in first place is an ordinary character. */
function setEnd(pattern: string[], from: number): number {
  const first = pattern[from] === "!" ? from + 1 : from;
  return pattern.indexOf("]", first + 1);
}

function charSet(content: string[]): Token {
  const not = content[0] === "!";
  const ranges: [string, string][] = [];
  for (let i = not ? 1 : 0; i < content.length; ) {
    const isRange = content[i + 1] === "-" && i + 2 < content.length;
    ranges.push([content[i], content[isRange ? i + 2 : i]]);
    i += isRange ? 3 : 1;
  }
  return { not, ranges };
}
