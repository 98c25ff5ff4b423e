// What a notebook's kernel tells of its models and trainings (shrinkwidget/widgets/models_in_kernel.py).

import type { NotebookPanel } from "@jupyterlab/notebook";
import { literal } from "./python-code";

export interface Model {
  name: string;
  names: string[];
  class: string;
  parameters: number;
  bytes: number;
  device: string;
}

export interface Training {
  id: string;
  model: string;
  state: string;
  place: string;
}

export interface Listing {
  models: Model[];
  trainings: Training[];
}

/** The models and trainings in a kernel; null where there is no Python kernel. */
export async function listModels(panel: NotebookPanel): Promise<Listing | null> {
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel || (await kernel.info).language_info.name !== "python") return null;
  // a kernel that has not loaded torch has no models, and need not load it for this
  const empty = "__import__('IPython.display').display.JSON(dict(models=[], trainings=[]))";
  const found = call("list_models(globals())");
  return (await ask(panel, `${found} if 'torch' in __import__('sys').modules else ${empty}`)) as Listing;
}

/** The id of the widget of an explorer of a model: the one that is open in a cell, or a new one. */
export async function openExplorer(panel: NotebookPanel, name: string): Promise<string> {
  const found = await ask(panel, call(`open_explorer(globals(), ${literal(name)})`));
  return (found as { model_id: string }).model_id;
}

/** The tab of an explorer was closed. */
export async function closeExplorer(panel: NotebookPanel, modelId: string): Promise<void> {
  await ask(panel, call(`close_explorer(${literal(modelId)})`));
}

export async function stopTraining(panel: NotebookPanel, id: string): Promise<void> {
  await ask(panel, call(`stop_training(globals(), ${literal(id)})`));
}

const call = (code: string) => `__import__('shrinkwidget.widgets.models_in_kernel', fromlist=['_']).${code}`;

/** Evaluate an expression where no trace is left of it: no cell, no prompt number, nothing in In, Out, _ or history. */
async function ask(panel: NotebookPanel, expression: string): Promise<unknown> {
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel) return null;
  const content = { code: "", silent: true, store_history: false, user_expressions: { answer: expression } };
  const reply = await kernel.requestExecute(content).done;
  if (reply.content.status !== "ok") throw new Error("The kernel was interrupted.");
  const answer = reply.content.user_expressions?.answer as {
    status: string;
    evalue?: string;
    data?: Record<string, unknown>;
  };
  if (answer.status !== "ok") throw new Error(answer.evalue ?? "The kernel gave no answer.");
  return answer.data?.["application/json"] ?? null;
}
