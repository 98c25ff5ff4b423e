// Pruning at random: the baseline that every comparison needs.

import { blockCount } from "../channel-families-and-counts";
import { roundHalfEven } from "../search-round-and-sum";
import { type ImportanceEstimate, nothingAsked } from "./importance";

export const random: ImportanceEstimate = {
  entry: {
    kind: "random",
    label: "random",
    title: "the baseline every comparison needs",
    python: "sw.methods.Random",
    scope: "global",
    controls: [
      {
        ...{ name: "seed", label: "seed", title: "another seed prunes other weights", type: "number", default: 0 },
        ...{ min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, unit: "" },
      },
    ],
  },
  ranks: false,

  outcome(layer, plan) {
    const unstructured = plan.structure === "unstructured";
    const left = unstructured
      ? layer.n - roundHalfEven(plan.sparsity * layer.n)
      : blockCount(layer.rows, layer.n / layer.rows, plan.structure);
    const density = left / layer.n;
    const kept =
      left === layer.n ? nothingAsked(layer, plan).kept : roundHalfEven((left * (layer.n - layer.zeros)) / layer.n);
    return { kept, prunedEnergy: (1 - density) * layer.energy, cut: null, curve: null, density };
  },
};
