// The k-means quantizer: one codebook of 2^bits values for each tensor.
import { codebook, codebookNoise, Survivors, spreadOf } from "../lloyd-max-codebook";
import type { PruningOutcome } from "../pruning-estimate";
import type { LayerSketch, Plan } from "../types";
import type { QuantizerEstimate } from "./quantizer";

export const kmeans: QuantizerEstimate = {
  entry: {
    kind: "kmeans",
    label: "k-means",
    title: "k-means values, one codebook for each tensor",
    bits: [1, 2, 3, 4, 5, 6, 7, 8],
    scales: false,
    controls: [],
  },
  hasZero: () => false,
  sideBytes: ({ bits }) => 4 * 2 ** bits,
  oneGrid: () => true,

  noise(_sketch, layer, plan, fate) {
    const survivors = new Survivors(spreadOf(layer, fate.curve), fate.cut);
    const values = 2 ** plan.bits;
    if (fate.kept <= values || (layer.lossless && survivors.parts() <= values)) return 0; // each weight has its own
    return layer.share * fate.density * codebookNoise(codebook(survivors, plan.bits));
  },

  levels: (_sketch, layer, plan, fate) => codebookFor(layer, plan, fate).values,

  draw(bars, _sketch, layer, plan, fate) {
    const { values, cells } = codebookFor(layer, plan, fate);
    values.forEach((value, i) => {
      bars.add(value, cells.count[i]);
    });
  },
};

function codebookFor(layer: LayerSketch, plan: Plan, fate: PruningOutcome) {
  return codebook(new Survivors(spreadOf(layer, fate.curve), fate.cut), plan.bits);
}
