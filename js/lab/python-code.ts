// The Python that opens a checkpoint or one of its tensors, to be run from the folder the path is relative to.

/** A text as a literal of Python. */
export function literal(text: string): string {
  const hex = (letter: string) => letter.codePointAt(0)!.toString(16).padStart(8, "0");
  return JSON.stringify(text).replace(/[\u{7f}-\u{10ffff}]/gu, (letter) => `\\U${hex(letter)}`);
}

/** The cell that "Open in notebook" puts into a notebook. */
export function exploreCode(path: string, format: string): string {
  const load = format === "shrinkwidget" ? `sw.load(${literal(path)})` : `sw.explore(${literal(path)})`;
  return `import shrinkwidget as sw\n\n${load}`;
}

/** The cell of the launcher's "Explore a model". */
export const STARTER = `import shrinkwidget as sw

# a small trained network; put your own model, or the path of a checkpoint, in its place
model = sw.demo.model()
sw.explore(model, sw.demo.data("test"))`;

/** Python that reads a tensor, or without one opens the file. */
export function tensorCode(path: string, format: string, tensor: string | null): string {
  const file = literal(path);
  if (format === "gguf") {
    const which =
      tensor === null ? "reader.tensors" : `next(t for t in reader.tensors if t.name == ${literal(tensor)})`;
    return `from gguf import GGUFReader\n\nreader = GGUFReader(${file})\n${which}`;
  }
  if (tensor === null || path.endsWith(".json")) return exploreCode(path, format);
  if (format === "shrinkwidget") {
    return `import shrinkwidget as sw\n\ntensor = sw.load(${file}).state_dict()[${literal(tensor)}]`;
  }
  const read = `    tensor = file.get_tensor(${literal(tensor)})`;
  return `from safetensors import safe_open\n\nwith safe_open(${file}, "pt") as file:\n${read}`;
}
