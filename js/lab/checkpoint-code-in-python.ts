// The Python that opens a checkpoint, reads one of its tensors, or converts a pickle.

/** A text as a literal of Python. */
export function literal(text: string): string {
  const hex = (letter: string) => letter.codePointAt(0)!.toString(16).padStart(8, "0");
  return JSON.stringify(text).replace(/[\u{7f}-\u{10ffff}]/gu, (letter) => `\\U${hex(letter)}`);
}

/** What the explorer starts with, as the settings have it; null leaves the weights as they are. */
export interface Start {
  sparsity: number | null;
  bits: number | null;
}

/** The cell that "Open in notebook" puts into a notebook. */
export function openCode(path: string, format: string, start: Start): string {
  const file = literal(path);
  if (format === "gguf") {
    return `from gguf import GGUFReader

reader = GGUFReader(${file})
{tensor.name: tensor.tensor_type.name for tensor in reader.tensors}`;
  }
  if (format === "shrinkwidget") return `import shrinkwidget as sw\n\nsmall = sw.load(${file})\nsmall`;
  const { sparsity, bits } = start;
  const fields = Object.entries({ sparsity, bits }).filter(([, value]) => value !== null);
  const args = [file, ...fields.map(([name, value]) => `${name}=${value}`)];
  return `import shrinkwidget as sw\n\nsw.explore(${args.join(", ")})`;
}

/** Python that reads a tensor of the file at `path`. */
export function tensorCode(path: string, format: string, tensor: string): string {
  const [file, name] = [literal(path), literal(tensor)];
  if (format === "gguf") {
    return `from gguf import GGUFReader

reader = GGUFReader(${file})
tensor = next(tensor for tensor in reader.tensors if tensor.name == ${name})`;
  }
  if (format === "shrinkwidget") {
    return `import shrinkwidget as sw\n\ntensor = sw.load(${file}).state_dict()[${name}]`;
  }
  return `from safetensors import safe_open

with safe_open(${file}, framework="pt") as file:
    tensor = file.get_tensor(${name})`;
}

/** Python that writes the state dict in a pickle as a safetensors file; tied tensors are written one by one. */
export function convertCode(path: string): string {
  const target = `${path.replace(/\.[^./]*$/, "")}.safetensors`;
  return `import torch
from safetensors.torch import save_file

# weights_only refuses a pickle that holds anything but tensors and plain containers
state = torch.load(${literal(path)}, map_location="cpu", weights_only=True)
# what a training wrote holds the weights under a name of their own, beside numbers
for key in ("state_dict", "model_state_dict", "model", "state_dict"):
    if isinstance(state.get(key), dict):
        state = state[key]
tensors = {name: value.clone().contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
if not tensors:
    raise ValueError(f"there are no tensors under these names, choose among them: {list(state)}")
save_file(tensors, ${literal(target)})`;
}

/** The cell of the launcher's "Explore a Model". */
export const STARTER = `import shrinkwidget as sw

# a small trained network; put your own model, or the path of a checkpoint, in its place
model = sw.demo.model()
sw.explore(model, sw.demo.data("test"))`;
