// Reads a safetensors blob: eight bytes of length, a JSON header, and tables of numbers.

export type Table = Uint8Array | Uint16Array | Uint32Array | Float32Array | Float64Array;

export interface Blob {
  readonly metadata: Record<string, string>;
  readonly tables: ReadonlyMap<string, Table>;
}

interface Entry {
  dtype: string;
  data_offsets: [number, number];
}

const READERS: Record<string, (bytes: ArrayBuffer) => Table> = {
  U8: (bytes) => new Uint8Array(bytes),
  U16: (bytes) => new Uint16Array(bytes),
  U32: (bytes) => new Uint32Array(bytes),
  F32: (bytes) => new Float32Array(bytes),
  F64: (bytes) => new Float64Array(bytes),
};

/** Read a blob; its tables are copies, so that the message it came in can go. Throws an Error for anything else. */
export function readSafetensors(source: Uint8Array | DataView): Blob {
  const bytes = new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (bytes.length < 8) throw new Error(`not a safetensors blob: it has ${bytes.length} bytes`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (8 + length > bytes.length) throw new Error("not a whole safetensors blob: its header is longer than itself");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const { __metadata__: metadata = {}, ...entries } = header as Record<string, never>;
  const data = bytes.subarray(8 + length);
  const tables = new Map(Object.entries<Entry>(entries).map(([name, entry]) => [name, readTable(name, entry, data)]));
  return { metadata, tables };
}

function readTable(name: string, { dtype, data_offsets: [begin, end] }: Entry, data: Uint8Array): Table {
  const read = READERS[dtype];
  if (!read || end > data.length) throw new Error(`the safetensors blob holds no readable table ${name} (${dtype})`);
  // A slice is a copy at offset 0: a typed array over the message itself would have to lie at a multiple of its width.
  return read(data.slice(begin, end).buffer as ArrayBuffer);
}
