// Questions the panel "By class" asks of a comparison with the dense model: what changed, where most, what is lost.

import { count, percent } from "../charts/number-format";
import type { ByClass } from "./host-interface";

export interface ClassChange {
  label: number;
  n: number;
  /** Shares of the class that were predicted rightly; NaN for a class without examples. */
  before: number;
  after: number;
  /** Predictions of this class, before and after. */
  predicted: readonly [number, number];
  /** Whether hardly anything of it is left: it was right mostly, and is wrong mostly. */
  lost: boolean;
}

/** More classes than this are not drawn: the worst are, and the table has all. */
export const MOST_CLASSES = 12;

/** Of fewer labels, chance may miss all: the kernel's warnings begin here, too. */
const ENOUGH = 5;
const MOSTLY = 0.5;
const HARDLY = 0.1;
const NAMED = 3;

export function changes({ classes }: ByClass): ClassChange[] {
  return classes.map(([n, right, now, predicted, predictedNow], label) => {
    const [before, after] = [right / n, now / n];
    const lost = n >= ENOUGH && before >= MOSTLY && after <= HARDLY;
    return { label, n, before, after, predicted: [predicted, predictedNow] as const, lost };
  });
}

/** Those that are drawn: all in order if they are few, else those that fell furthest. */
export function drawn(all: readonly ClassChange[]): ClassChange[] {
  const some = all.filter((one) => one.n > 0);
  return some.length <= MOST_CLASSES ? some : fallen(some).slice(0, MOST_CLASSES);
}

function fallen(all: readonly ClassChange[]): ClassChange[] {
  return [...all].sort((a, b) => a.after - a.before - (b.after - b.before));
}

/** "100 → 0 %". */
export function changeText({ before, after }: ClassChange): string {
  return `${percent(before).replace(/\D+$/, "")} → ${percent(after)}`;
}

/** What is worth knowing at a glance: classes that are lost, or the one that fell most, and how many are misread. */
export function summary(found: ByClass): string {
  const all = changes(found).filter((one) => one.n > 0);
  const lost = fallen(all.filter((one) => one.lost));
  const [worst] = fallen(all);
  const parts: string[] = [];
  if (lost.length > 0) {
    const names = lost.slice(0, NAMED).map((one) => `${one.label} (${changeText(one)})`);
    const more = lost.length > NAMED ? ` and ${lost.length - NAMED} more` : "";
    parts.push(`lost: class ${names.join(", ")}${more}`);
  } else if (worst && worst.after < worst.before) {
    parts.push(`most lost: class ${worst.label}, ${changeText(worst)}`);
  } else if (all.length > 0) {
    parts.push("no class does worse");
  }
  if (!found.only_classes) {
    const misread =
      found.misread > 0 ? `${count(found.misread)} misread that were right` : "nothing misread that was right";
    parts.push(`${misread}${found.fixed > 0 ? `, ${count(found.fixed)} fixed` : ""}`);
  }
  return parts.join(" · ");
}
