// What the buttons of the explorer and the monitor save, and the names they suggest for it.

/** The provenance of weights that were not retrained. */
export const PLAIN = "no retraining";

/** What the buttons keep, and the names they suggest for it. */
export interface Keeps {
  provenance: string;
  variable: string;
  file: string;
}

/** What the buttons suggest where the kernel does not say: a variable, and a file named after the model. */
export function suggestions(title: string, variable = "small"): Keeps {
  const name = figureName(title);
  return { provenance: PLAIN, variable, file: `${name}-${variable}.safetensors` };
}

/** What the name of a model's figure begins with. */
export function figureName(title: string): string {
  return title.replace(/[^\p{L}\p{N}._-]+/gu, "-").toLowerCase() || "model";
}
