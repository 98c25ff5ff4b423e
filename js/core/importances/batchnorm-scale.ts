// Importance by the scale of batch norms: it ranks channels, of which the kernel knows the order; single weights go by magnitude.
import type { ImportanceEstimate } from "./importance";
import { magnitude } from "./magnitude";

export const batchnormScale: ImportanceEstimate = {
  ...magnitude,
  entry: {
    ...magnitude.entry,
    kind: "batchnorm_scale",
    label: "batch-norm scale",
    title: "channels by the scale of their batch norm, single weights by magnitude",
    python: "sw.methods.BatchNormScale",
  },
};
