// Importance by magnitude: the smallest weights are pruned first.

import { below, blocks, cutAt } from "../pruning-estimate";
import { roundHalfEven } from "../search-round-and-sum";
import { type ImportanceEstimate, nothingAsked } from "./importance";

export const magnitude: ImportanceEstimate = {
  entry: { kind: "magnitude", label: "magnitude", title: "the smallest go first", scope: "global", controls: [] },
  ranks: true,

  outcome(layer, plan, shared, patterns) {
    if (plan.structure !== "unstructured") return blocks(layer, patterns.indexOf(plan.structure));
    if (plan.scope === "global") return shared ? below(layer, shared) : nothingAsked(layer, plan);
    const k = roundHalfEven(plan.sparsity * layer.n);
    const cut = cutAt(layer.magnitudes, k / layer.share);
    return cut ? below(layer, cut, layer.n - k) : nothingAsked(layer, plan);
  },
};
