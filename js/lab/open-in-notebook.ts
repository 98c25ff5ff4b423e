// Makes notebooks, and puts cells into them.

import type { JupyterFrontEnd } from "@jupyterlab/application";
import { NotebookActions, type NotebookPanel } from "@jupyterlab/notebook";

/** Make a notebook in a folder, with the server's usual kernel. */
export async function newNotebook(app: JupyterFrontEnd, folder: string): Promise<NotebookPanel> {
  const { kernelspecs } = app.serviceManager;
  await kernelspecs.ready;
  const kernelName = kernelspecs.specs?.default ?? "";
  return app.commands.execute("notebook:create-new", { cwd: folder, kernelName, activate: true });
}

/** Write a notebook of one cell and open it, where a notebook has a browser tab of its own (Notebook 7). */
export async function openWrittenNotebook(app: JupyterFrontEnd, folder: string, code: string): Promise<void> {
  const { contents, kernelspecs } = app.serviceManager;
  await kernelspecs.ready;
  const name = kernelspecs.specs?.default ?? "";
  const kernelspec = { name, display_name: kernelspecs.specs?.kernelspecs[name]?.display_name ?? name };
  const cell = { cell_type: "code", source: code, metadata: {}, outputs: [], execution_count: null };
  const content = { cells: [cell], metadata: { kernelspec }, nbformat: 4, nbformat_minor: 4 };
  const { path } = await contents.newUntitled({ path: folder, type: "notebook" });
  await contents.save(path, { type: "notebook", format: "json", content });
  await app.commands.execute("docmanager:open", { path });
}

/** Put code into the active cell if that is empty, else into a new cell below it, and run it if asked to. */
export async function insertCell(
  app: JupyterFrontEnd,
  panel: NotebookPanel,
  code: string,
  { run }: { run: boolean },
): Promise<void> {
  await panel.context.ready;
  await panel.revealed;
  const notebook = panel.content;
  const active = notebook.activeCell;
  if (active?.model.type !== "code" || active.model.sharedModel.getSource().trim() !== "") {
    NotebookActions.insertBelow(notebook);
  }
  notebook.activeCell!.model.sharedModel.setSource(code);
  app.shell.activateById(panel.id);
  if (!run) return;
  await panel.sessionContext.ready;
  await NotebookActions.run(notebook, panel.sessionContext);
}
