// What a notebook's kernel tells of its models and trainings (shrinkwidget/widgets/models_and_trainings_in_kernel.py).

import type { NotebookPanel } from "@jupyterlab/notebook";
import { type Kernel, KernelMessage } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import { literal } from "./checkpoint-code-in-python";

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

/** How a kernel is asked: after the cells that are running, or beside them, on a thread of its own. */
export type When = "after cells" | "beside cells";

/** Whether a kernel has begun to show a training, as it does while a cell trains. */
export function showsTraining(message: KernelMessage.IMessage): boolean {
  if (!KernelMessage.isCommOpenMsg(message)) return false;
  const { state } = message.content.data as { state?: Record<string, unknown> };
  return state?._anywidget_id === "shrinkwidget.widgets.monitor.Monitor";
}

/** The models and trainings in a kernel; null where there is no Python kernel. */
export async function listModels(panel: NotebookPanel, trans: TranslationBundle, when: When): Promise<Listing | null> {
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel || (await kernel.info).language_info.name !== "python") return null;
  // a kernel that has not loaded torch has no models, and need not load it for this
  const empty = "__import__('IPython.display').display.JSON(dict(models=[], trainings=[]))";
  const found = call("list_models(globals())");
  return (await ask(panel, trans, when, `${found} if 'torch' in __import__('sys').modules else ${empty}`)) as Listing;
}

/** The id of the widget of an explorer of a model: the one that is open in a cell, or a new one. */
export async function openExplorer(panel: NotebookPanel, trans: TranslationBundle, name: string): Promise<string> {
  const found = await ask(panel, trans, "after cells", call(`open_explorer(globals(), ${literal(name)})`));
  return (found as { model_id: string }).model_id;
}

/** The tab of an explorer was closed. */
export async function closeExplorer(panel: NotebookPanel, trans: TranslationBundle, modelId: string): Promise<void> {
  await ask(panel, trans, "after cells", call(`close_explorer(${literal(modelId)})`));
}

/** Stop a training, also one that a running cell waits for. */
export async function stopTraining(panel: NotebookPanel, trans: TranslationBundle, id: string): Promise<void> {
  await ask(panel, trans, "beside cells", call(`stop_training(globals(), ${literal(id)})`));
}

const call = (code: string) =>
  `__import__('shrinkwidget.widgets.models_and_trainings_in_kernel', fromlist=['_']).${code}`;

/** Evaluate an expression where no trace is left of it: no cell, no prompt number, nothing in In, Out, _ or history. */
async function ask(panel: NotebookPanel, trans: TranslationBundle, when: When, expression: string): Promise<unknown> {
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel) return null;
  const content = { code: "", silent: true, store_history: false, user_expressions: { answer: expression } };
  const asked = when === "beside cells" ? await besideCells(kernel) : kernel;
  const reply = await asked.requestExecute(content).done;
  if (reply.content.status !== "ok") throw new Error(trans.__("The kernel was interrupted."));
  const answer = reply.content.user_expressions?.answer as {
    status: string;
    evalue?: string;
    data?: Record<string, unknown>;
  };
  if (answer.status !== "ok") throw new Error(answer.evalue ?? trans.__("The kernel gave no answer."));
  return answer.data?.["application/json"] ?? null;
}

const subshells = new WeakMap<Kernel.IKernelConnection, Promise<Kernel.IKernelConnection>>();

/**
 * A connection to a kernel's subshell (JEP 91), which answers while a cell runs; without subshells the kernel's own.
 *
 * It is for trainings alone: after each message the kernel calls itself idle, and what shows that would be wrong for
 * the rest of every long cell.
 */
function besideCells(kernel: Kernel.IKernelConnection): Promise<Kernel.IKernelConnection> {
  if (!kernel.supportsSubshells) return Promise.resolve(kernel);
  let found = subshells.get(kernel);
  if (!found) {
    found = openSubshell(kernel).catch(() => kernel);
    subshells.set(kernel, found);
  }
  return found;
}

async function openSubshell(kernel: Kernel.IKernelConnection): Promise<Kernel.IKernelConnection> {
  const { content } = await kernel.requestCreateSubshell({}).done;
  if (!content.subshell_id) return kernel;
  const subshell = kernel.clone();
  subshell.subshellId = content.subshell_id;
  kernel.disposed.connect(() => subshell.dispose());
  kernel.statusChanged.connect((_, status) => {
    if (status !== "restarting" && status !== "autorestarting") return;
    subshells.delete(kernel);
    subshell.subshellId = null; // it is gone with the process
    subshell.dispose();
  });
  return subshell;
}
