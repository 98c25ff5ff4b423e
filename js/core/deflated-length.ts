// How many bytes zlib makes of some bytes at level 9, to the byte: what a file's header takes depends on it.
//
// DEFLATE (RFC 1951) leaves to the compressor which matches and code lengths it takes, so this follows the ones zlib takes:
// deflate_slow of deflate.c, and build_tree of trees.c. Nothing is written but the length.

const MIN_MATCH = 3;
const MAX_MATCH = 258;
const MAX_DISTANCE = 32768 - MAX_MATCH - MIN_MATCH - 1;
/** A match of three bytes farther back than this costs more than three literals. */
const TOO_FAR = 4096;
/** Level 9: how many earlier places are looked at, and how many where the match before is this good already. */
const CHAIN = 4096;
const GOOD_MATCH = 32;
/** A block ends when it has so many symbols. */
const MOST_SYMBOLS = 16383;
/** Two bytes of zlib's own header, and four of a checksum. */
const WRAPPING = 6;

const END_OF_BLOCK = 256;
const LITERALS = 286;
const DISTANCES = 30;
const LENGTHS_OF_CODES = 19;
const EXTRA_OF_LENGTHS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const EXTRA_OF_DISTANCES = Array.from({ length: DISTANCES }, (_, code) => Math.max(0, (code >> 1) - 1));
const EXTRA_OF_REPEATS = [...new Array(16).fill(0), 2, 3, 7];
/** In which order the lengths of the codes of code lengths are written. */
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** For numbers 0, 1, … the code whose range holds them, given how many extra bits each code has. */
function codesOf(extra: readonly number[], numbers: number): Uint8Array {
  const codes = new Uint8Array(numbers);
  let at = 0;
  extra.forEach((bits, code) => {
    codes.fill(code, at, at + 2 ** bits);
    at += 2 ** bits;
  });
  return codes;
}

const CODE_OF_LENGTH = codesOf(EXTRA_OF_LENGTHS.slice(0, -1), MAX_MATCH - MIN_MATCH + 1);
CODE_OF_LENGTH[MAX_MATCH - MIN_MATCH] = EXTRA_OF_LENGTHS.length - 1; // the longest has a code of its own
const CODE_OF_DISTANCE = codesOf(EXTRA_OF_DISTANCES, 32768);
const FIXED_LITERAL = Uint8Array.from({ length: LITERALS }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
const FIXED_DISTANCE = new Uint8Array(DISTANCES).fill(5);

const heads = new Int32Array(1 << 15);

/** The length of `zlib.compress(bytes, 9)`. */
export function deflatedLength(bytes: Uint8Array): number {
  const end = bytes.length;
  const before = new Int32Array(end);
  const block = new Block();
  heads.fill(0); // place 0 stands for none, so that what begins the bytes is never matched
  let bits = 0;
  let start = 0; // of the block
  let length = MIN_MATCH - 1; // of the best match here, and of the one at the place before
  let distance = 0;
  let pending = false; // whether the byte before still waits for what this place has to offer

  const insert = (at: number): number => {
    const hash = ((bytes[at] << 10) ^ (bytes[at + 1] << 5) ^ bytes[at + 2]) & 0x7fff;
    before[at] = heads[hash];
    heads[hash] = at;
    return before[at];
  };
  let at = 0;
  while (at < end) {
    const head = at + MIN_MATCH <= end ? insert(at) : 0;
    const [lengthBefore, distanceBefore] = [length, distance];
    length = MIN_MATCH - 1;
    if (head > 0 && lengthBefore < MAX_MATCH && at - head <= MAX_DISTANCE) {
      const found = longestMatch(bytes, before, at, head, lengthBefore);
      if (found >= 0) {
        length = Math.min(matchLength, end - at);
        distance = at - found;
      } else {
        length = Math.min(lengthBefore, end - at);
      }
      if (length === MIN_MATCH && distance > TOO_FAR) length = MIN_MATCH - 1;
    }
    if (lengthBefore >= MIN_MATCH && length <= lengthBefore) {
      block.match(lengthBefore, distanceBefore);
      const next = at - 1 + lengthBefore;
      while (++at < next) if (at + MIN_MATCH <= end) insert(at);
      pending = false;
      length = MIN_MATCH - 1;
      if (block.symbols === MOST_SYMBOLS) [bits, start] = [block.close(bits, at - start, false), at];
    } else {
      if (pending) {
        block.literal(bytes[at - 1]);
        if (block.symbols === MOST_SYMBOLS) [bits, start] = [block.close(bits, at - start, false), at];
      }
      pending = true;
      at++;
    }
  }
  if (pending) block.literal(bytes[end - 1]);
  return WRAPPING + block.close(bits, end - start, true) / 8;
}

let matchLength = 0;

/** Where the longest match longer than `best` begins, -1 for none; how long it is, is left in `matchLength`. */
function longestMatch(bytes: Uint8Array, before: Int32Array, at: number, head: number, best: number): number {
  const most = Math.min(MAX_MATCH, bytes.length - at);
  const limit = Math.max(0, at - MAX_DISTANCE);
  let chain = best >= GOOD_MATCH ? CHAIN >> 2 : CHAIN;
  let found = -1;
  for (let place = head; ; ) {
    if (bytes[place + best] === bytes[at + best] && bytes[place + best - 1] === bytes[at + best - 1]) {
      let n = 0;
      while (n < most && bytes[place + n] === bytes[at + n]) n++;
      if (n > best) {
        [found, best, matchLength] = [place, n, n];
        if (n >= most) break;
      }
    }
    place = before[place];
    if (place <= limit || --chain === 0) break;
  }
  return found;
}

/** Counts the symbols of one block, and what it takes when it ends. */
class Block {
  readonly #literals = new Tree(LITERALS, 15, FIXED_LITERAL, EXTRA_OF_LENGTHS, END_OF_BLOCK + 1);
  readonly #distances = new Tree(DISTANCES, 15, FIXED_DISTANCE, EXTRA_OF_DISTANCES, 0);
  readonly #lengths = new Tree(LENGTHS_OF_CODES, 7, null, EXTRA_OF_REPEATS, 0);
  symbols = 0;

  literal(byte: number): void {
    this.#literals.count[byte]++;
    this.symbols++;
  }

  match(length: number, distance: number): void {
    this.#literals.count[END_OF_BLOCK + 1 + CODE_OF_LENGTH[length - MIN_MATCH]]++;
    this.#distances.count[CODE_OF_DISTANCE[distance - 1]]++;
    this.symbols++;
  }

  /** The bits that there are after this block, whichever of the three kinds is the shortest; ready for the next one. */
  close(bits: number, bytes: number, last: boolean): number {
    this.#literals.count[END_OF_BLOCK] = 1;
    this.#literals.build();
    this.#distances.build();
    this.#lengths.countRuns(this.#literals);
    this.#lengths.countRuns(this.#distances);
    this.#lengths.build();
    let codes = LENGTHS_OF_CODES;
    while (codes > 4 && this.#lengths.length[ORDER[codes - 1]] === 0) codes--;
    const own = this.#literals.bits + this.#distances.bits + this.#lengths.bits + 3 * codes + 14;
    const fixed = this.#literals.fixedBits + this.#distances.fixedBits;
    for (const tree of [this.#literals, this.#distances, this.#lengths]) tree.count.fill(0);
    this.symbols = 0;
    const inBytes = (n: number) => (n + 3 + 7) >> 3;
    const least = Math.min(inBytes(fixed), inBytes(own));
    let after = bits + 3 + (inBytes(fixed) === least ? fixed : own);
    if (bytes + 4 <= least) after = 8 * (Math.ceil((bits + 3) / 8) + 4 + bytes);
    return last ? 8 * Math.ceil(after / 8) : after;
  }
}

/** A Huffman code as zlib makes it, with the ties and the repairs that decide its code lengths. */
class Tree {
  readonly count: Int32Array;
  readonly length: Uint8Array;
  /** What the counted symbols take in this code, and in the fixed one, extra bits included. */
  bits = 0;
  fixedBits = 0;
  /** The highest symbol that has a code. */
  #last = 0;
  readonly #depth: Uint8Array;
  readonly #parent: Int32Array;
  readonly #heap: Int32Array;
  #heaped = 0;

  constructor(
    readonly symbols: number,
    readonly longest: number,
    readonly fixed: Uint8Array | null,
    readonly extra: readonly number[],
    readonly firstWithExtra: number,
  ) {
    const nodes = 2 * symbols + 1;
    this.count = new Int32Array(nodes);
    this.length = new Uint8Array(nodes);
    this.#depth = new Uint8Array(nodes);
    this.#parent = new Int32Array(nodes);
    this.#heap = new Int32Array(nodes);
  }

  build(): void {
    const { count, symbols } = this;
    const heap = this.#heap;
    this.bits = 0;
    this.fixedBits = 0;
    this.#heaped = 0;
    this.#last = -1;
    this.length.fill(0);
    this.#depth.fill(0);
    for (let symbol = 0; symbol < symbols; symbol++) {
      if (count[symbol] > 0) {
        heap[++this.#heaped] = symbol;
        this.#last = symbol;
      }
    }
    while (this.#heaped < 2) {
      // a code has two symbols at least; one that does not occur costs nothing
      const symbol = this.#last < 2 ? ++this.#last : 0;
      heap[++this.#heaped] = symbol;
      count[symbol] = 1;
      this.bits--;
      this.fixedBits -= this.fixed?.[symbol] ?? 0;
    }
    for (let i = this.#heaped >> 1; i >= 1; i--) this.#sift(i);
    const sorted: number[] = []; // nodes by falling count: the root comes last
    let node = symbols;
    do {
      const least = heap[1];
      heap[1] = heap[this.#heaped--];
      this.#sift(1);
      const next = heap[1];
      sorted.push(least, next);
      count[node] = count[least] + count[next];
      this.#depth[node] = Math.max(this.#depth[least], this.#depth[next]) + 1;
      this.#parent[least] = node;
      this.#parent[next] = node;
      heap[1] = node++;
      this.#sift(1);
    } while (this.#heaped >= 2);
    this.#measure(sorted, heap[1]);
    count.fill(0, symbols);
  }

  #isLess(a: number, b: number): boolean {
    const { count } = this;
    return count[a] < count[b] || (count[a] === count[b] && this.#depth[a] <= this.#depth[b]);
  }

  #sift(from: number): void {
    const heap = this.#heap;
    const node = heap[from];
    let i = from;
    for (let j = 2 * i; j <= this.#heaped; j = 2 * i) {
      if (j < this.#heaped && this.#isLess(heap[j + 1], heap[j])) j++;
      if (this.#isLess(node, heap[j])) break;
      heap[i] = heap[j];
      i = j;
    }
    heap[i] = node;
  }

  /** Code lengths from the tree, at most `longest`; and what all symbols then take. */
  #measure(sorted: readonly number[], root: number): void {
    const { count, length, longest, fixed } = this;
    const ofLength = new Int32Array(longest + 1);
    let tooLong = 0;
    length[root] = 0;
    for (let i = sorted.length - 1; i >= 0; i--) {
      const node = sorted[i];
      let bits = length[this.#parent[node]] + 1;
      if (bits > longest) {
        bits = longest;
        tooLong++;
      }
      length[node] = bits;
      if (node >= this.symbols) continue;
      ofLength[bits]++;
      const extra = node >= this.firstWithExtra ? (this.extra[node - this.firstWithExtra] ?? 0) : 0;
      this.bits += count[node] * (bits + extra);
      if (fixed) this.fixedBits += count[node] * (fixed[node] + extra);
    }
    if (tooLong > 0) this.#shorten(sorted, ofLength, tooLong);
  }

  /** Move leaves up until none is longer than allowed: the rarest symbols keep the longest codes. */
  #shorten(sorted: readonly number[], ofLength: Int32Array, tooLong: number): void {
    const { longest, length } = this;
    for (let left = tooLong; left > 0; left -= 2) {
      let bits = longest - 1;
      while (ofLength[bits] === 0) bits--;
      ofLength[bits]--;
      ofLength[bits + 1] += 2;
      ofLength[longest]--;
    }
    let i = 0;
    for (let bits = longest; bits > 0; bits--) {
      for (let n = ofLength[bits]; n > 0; ) {
        const node = sorted[i++];
        if (node >= this.symbols) continue;
        this.bits += (bits - length[node]) * this.count[node];
        length[node] = bits;
        n--;
      }
    }
  }

  /** Count the symbols that the code lengths of another code are written in: lengths, and runs of equal ones. */
  countRuns({ length, lastSymbol }: Tree): void {
    const { count } = this;
    let before = -1;
    for (let at = 0; at <= lastSymbol; ) {
      const bits = length[at];
      const most = bits === 0 ? 138 : bits === before ? 6 : 7;
      let run = 1;
      while (run < most && at + run <= lastSymbol && length[at + run] === bits) run++;
      if (run < (bits === 0 || bits === before ? 3 : 4)) count[bits] += run;
      else if (bits !== 0) {
        if (bits !== before) count[bits]++;
        count[16]++;
      } else count[run <= 10 ? 17 : 18]++;
      before = bits;
      at += run;
    }
  }

  get lastSymbol(): number {
    return this.#last;
  }
}
