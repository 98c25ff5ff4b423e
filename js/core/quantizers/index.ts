// The quantizers the page can estimate, a module each; what any other costs is counted by the kernel.
import { tagOf } from "../method-settings";
import type { Kind } from "../types";
import { kmeans } from "./kmeans";
import type { QuantizerEstimate } from "./quantizer";
import { uniform } from "./uniform";

export const QUANTIZERS: readonly QuantizerEstimate[] = [uniform, kmeans];

const byTag = new Map(QUANTIZERS.map((quantizer) => [quantizer.entry.kind, quantizer]));

/** Whether the page can estimate a quantizer. */
export function isEstimable(quantizer: Kind): boolean {
  return byTag.has(tagOf(quantizer));
}

/** The estimate of a layer's quantizer, which there is unless its recipe is exact only. */
export function quantizerOf({ quantizer }: { readonly quantizer: Kind }): QuantizerEstimate {
  const found = byTag.get(tagOf(quantizer));
  if (!found) throw new Error(`there is no estimate of ${tagOf(quantizer)}`);
  return found;
}
