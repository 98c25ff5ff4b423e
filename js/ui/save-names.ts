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
  const name = title.replace(/[^\p{L}\p{N}._-]+/gu, "-").toLowerCase() || "model";
  return { provenance: PLAIN, variable, file: `${name}-${variable}.safetensors` };
}
