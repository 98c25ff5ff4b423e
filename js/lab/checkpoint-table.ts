// The table of a checkpoint as the server tells it (shrinkwidget/server/checkpoint_table.py), and where it is asked for.

import { URLExt } from "@jupyterlab/coreutils";
import { ServerConnection } from "@jupyterlab/services";
import type { Translate } from "./checkpoint-view";

export interface CheckpointTable {
  title: string;
  format: "safetensors" | "gguf" | "shrinkwidget";
  files: { name: string; bytes: number }[];
  /** Columns, an entry for each tensor. */
  tensors: { name: string[]; shape: number[][]; dtype: string[]; bytes: number[]; file: number[] };
  dtypes: { dtype: string; tensors: number; parameters: number; bytes: number }[];
  /** Pairs of a name and that of the tensor it shares. */
  tied: [string, string][];
  metadata: Record<string, unknown>;
  packed: { recipe: string; entropy: boolean; sections: Record<string, number> } | null;
}

/** Ask the server for what is in a file; an Error says in one sentence why it cannot be told. */
export async function fetchTable(
  path: string,
  settings: ServerConnection.ISettings,
  t: Translate,
): Promise<CheckpointTable> {
  const address = URLExt.join(settings.baseUrl, "shrinkwidget/api/checkpoint");
  let response: Response;
  try {
    response = await ServerConnection.makeRequest(`${address}?path=${encodeURIComponent(path)}`, {}, settings);
  } catch {
    throw new Error(t("The Jupyter server does not answer: is it still running?"));
  }
  const found = await response.json().catch(() => null);
  if (response.ok && found) return found as CheckpointTable;
  if (response.status === 404 && found?.message === undefined) {
    throw new Error(
      t("The Jupyter server has no shrinkwidget: install it where the server runs, and restart the server."),
    );
  }
  if (response.status === 403 && !found?.message?.includes("folder")) {
    throw new Error(t("Your session at the Jupyter server has expired: reload the page, and log in again."));
  }
  throw new Error(found?.message ?? t("The Jupyter server answered with status %1.", String(response.status)));
}
