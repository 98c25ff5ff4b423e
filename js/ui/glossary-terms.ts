// The terms that the page explains: each by the name of its heading in docs/glossary.md, with the first sentence that stands there.

export interface Explanation {
  title: string;
  text: string;
}

export const TERMS = {
  sparsity: { title: "sparsity", text: "The share of the prunable weights that is removed, from 0 to 1." },
  bits: {
    title: "bits",
    text: "How many bits a file stores for each weight that is kept; b bits can tell 2^b values apart.",
  },
  channel: {
    title: "channel",
    text: "What can be removed from a network as a whole: an output of a layer, with its batch norm and every weight that reads it.",
  },
  scope: {
    title: "scope",
    text: "Which weights are ranked together: those of all layers (global), of each layer, or of each output channel.",
  },
  structure: { title: "structure", text: "Which sets of weights may be pruned: any (unstructured), or n:m." },
  granularity: {
    title: "granularity",
    text: "How many weights share a scale: the whole tensor, an output channel, or a group of g neighbours.",
  },
  quantizer: {
    title: "quantizer",
    text: "The rule for which values weights may have: evenly spaced (uniform), a codebook (kmeans), or a fixed table (nf4).",
  },
  importance: {
    title: "importance",
    text: "The rule by which weights are ranked before the least important are pruned: their size, chance, or what calibration data tell.",
  },
  clipping: { title: "clipping", text: "Where the levels of a group end: at its largest weight, or before it." },
  "zero-point": { title: "zero point", text: "Which code means zero, where a grid is not symmetric about it." },
  code: { title: "code", text: "What a file stores for a weight: a whole number of b bits." },
  mask: { title: "mask", text: "One bit for each weight of a layer that says whether it was pruned." },
  scale: { title: "scale", text: "What a step of 1 in a code is worth, as a floating-point number for each group." },
  uncompressed: {
    title: "uncompressed",
    text: "What no recipe touches: biases, norms, buffers, and layers under Keep.",
  },
  header: { title: "header", text: "The part of a file with names, shapes and the recipe." },
  "entropy-coding": { title: "entropy coding", text: "Writing common codes and masks in fewer bits than rare ones." },
  budget: { title: "budget", text: "How many bytes the file may have." },
  flash: { title: "flash", text: "Where a device stores the file." },
  memory: {
    title: "memory",
    text: "What a model takes while it runs: all its weights in full, and its largest activation.",
  },
  provenance: {
    title: "provenance",
    text: 'How an accuracy was obtained, such as "no retraining" or "fine-tuned 3 epochs".',
  },
  interval: { title: "interval", text: "The range that covers the true accuracy in 95 of 100 such measurements." },
  "batch-norm-recalibration": {
    title: "batch norm recalibration",
    text: "Estimating the means and variances of batch norm anew after compression, on training data without their labels.",
  },
  covered: { title: "covered", text: "Of an accuracy: not shown until somebody has predicted it." },
  sensitivity: {
    title: "sensitivity",
    text: "How much the score drops with one layer pruned or rounded, and all others dense.",
  },
  sqnr: {
    title: "SQNR",
    text: "Signal-to-quantization-noise ratio: how large the weights are beside their error, in decibels.",
  },
  "bits-per-parameter": {
    title: "bits per parameter",
    text: "All bits of the file, its header too, divided by the number of the model's parameters.",
  },
  macs: { title: "MACs", text: "Multiply-accumulates of one forward pass, without those of pruned weights." },
  estimate: { title: "estimate", text: "Size and error computed from a sketch alone, marked ≈ while you drag." },
  exact: { title: "exact", text: "Counted on the weights themselves, not estimated." },
  "compression-ratio": {
    title: "compression ratio",
    text: "The bytes of the dense model's plain .safetensors file, divided by the bytes of the packed one.",
  },
  "fine-tuning": {
    title: "fine-tuning",
    text: "Training a compressed model on, at a small learning rate, so that it recovers.",
  },
} as const satisfies Record<string, Explanation>;

/** A term, by its anchor in the glossary. */
export type TermName = keyof typeof TERMS;
