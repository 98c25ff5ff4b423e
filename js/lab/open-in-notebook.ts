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
