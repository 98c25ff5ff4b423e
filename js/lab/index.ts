// The JupyterLab extension: opens checkpoints from the file browser, and starts from the launcher.

import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, WidgetTracker } from "@jupyterlab/apputils";
import { PathExt } from "@jupyterlab/coreutils";
import { IDocumentManager } from "@jupyterlab/docmanager";
import type { DocumentRegistry, IDocumentWidget } from "@jupyterlab/docregistry";
import { FileDialog, IFileBrowserFactory } from "@jupyterlab/filebrowser";
import { ILauncher } from "@jupyterlab/launcher";
import { INotebookTracker } from "@jupyterlab/notebook";
import { type Contents, IDefaultDrive } from "@jupyterlab/services";
import { ITranslator, nullTranslator } from "@jupyterlab/translation";
import { CheckpointFactory, type CheckpointViewer, NoContentProvider } from "./checkpoint-document";
import { checkpointIcon } from "./icon";
import { insertAndRun, newNotebook } from "./open-in-notebook";
import { exploreCode, STARTER } from "./python-code";

const FACTORY = "Checkpoint";
const NO_CONTENT = "shrinkwidget-no-content";
const FILE_TYPES = [
  { name: "safetensors", displayName: "Safetensors checkpoint", extensions: [".safetensors"] },
  { name: "safetensors-index", displayName: "Sharded checkpoint", extensions: [".safetensors.index.json"] },
  { name: "gguf", displayName: "GGUF checkpoint", extensions: [".gguf"] },
];

const OPEN_IN_NOTEBOOK = "shrinkwidget:open-in-notebook";
const EXPLORE_A_MODEL = "shrinkwidget:explore-a-model";
const OPEN_A_CHECKPOINT = "shrinkwidget:open-a-checkpoint";

const plugin: JupyterFrontEndPlugin<void> = {
  id: "shrinkwidget:checkpoints",
  description: "Opens safetensors and GGUF checkpoints without reading their weights.",
  autoStart: true,
  requires: [IDocumentManager, IDefaultDrive],
  optional: [ITranslator, ILayoutRestorer, ICommandPalette, ILauncher, INotebookTracker, IFileBrowserFactory],
  activate,
};

export default plugin;

function activate(
  app: JupyterFrontEnd,
  documents: IDocumentManager,
  drive: Contents.IDrive,
  translator: ITranslator | null,
  restorer: ILayoutRestorer | null,
  palette: ICommandPalette | null,
  launcher: ILauncher | null,
  notebooks: INotebookTracker | null,
  browsers: IFileBrowserFactory | null,
): void {
  const trans = (translator ?? nullTranslator).load("shrinkwidget");
  const { commands, docRegistry, serviceManager } = app;
  const { contents, serverSettings } = serviceManager;
  const tracker = new WidgetTracker<IDocumentWidget<CheckpointViewer>>({ namespace: "shrinkwidget-checkpoints" });

  drive.contentProviderRegistry?.register(
    NO_CONTENT,
    new NoContentProvider({ apiEndpoint: "/api/contents", serverSettings }),
  );
  for (const type of FILE_TYPES) {
    docRegistry.addFileType({ ...type, icon: checkpointIcon, fileFormat: "text", contentType: "file", mimeTypes: [] });
  }
  const openInNotebook = async (path: string, format: string) => {
    const local = contents.localPath(path);
    const active = notebooks?.currentWidget;
    const folder = PathExt.dirname(active ? contents.localPath(active.context.path) : local);
    const panel = active ?? (await newNotebook(app, folder));
    await insertAndRun(app, panel, exploreCode(PathExt.relative(`/${folder}`, `/${local}`), format));
  };
  const factory = new CheckpointFactory(
    {
      name: FACTORY,
      label: trans.__("Checkpoint"),
      fileTypes: FILE_TYPES.map((type) => type.name),
      defaultFor: FILE_TYPES.map((type) => type.name),
      readOnly: true,
      contentProviderId: NO_CONTENT,
    },
    {
      settings: serverSettings,
      trans,
      localPath: (path) => contents.localPath(path),
      openInNotebook: (path, format) => void openInNotebook(path, format),
    },
  );
  factory.widgetCreated.connect((_, widget) => {
    widget.title.icon = checkpointIcon;
    widget.context.pathChanged.connect(() => void tracker.save(widget));
    void tracker.add(widget);
  });
  // their types leave out that an optional property may be undefined, as ours are checked for
  docRegistry.addWidgetFactory(factory as DocumentRegistry.WidgetFactory);
  void restorer?.restore(tracker, {
    command: "docmanager:open",
    args: (widget) => ({ path: widget.context.path, factory: FACTORY }),
    name: (widget) => widget.context.path,
  });

  /** The checkpoint a command is about: the one selected in the file browser it was clicked in, or the one in front. */
  const target = (): { path: string; format: string } | null => {
    const front = tracker.currentWidget;
    if (front && front === app.shell.currentWidget) {
      return { path: front.context.path, format: front.content.format ?? "safetensors" };
    }
    const selected = browsers?.tracker.currentWidget?.selectedItems().next().value;
    const type = selected && docRegistry.getFileTypesForPath(selected.path)[0]?.name;
    if (selected && FILE_TYPES.some((known) => known.name === type)) {
      return { path: selected.path, format: type === "gguf" ? "gguf" : "safetensors" };
    }
    return front ? { path: front.context.path, format: front.content.format ?? "safetensors" } : null;
  };

  commands.addCommand(OPEN_IN_NOTEBOOK, {
    label: trans.__("Open in Notebook"),
    caption: trans.__("Put a cell that explores this checkpoint into the active notebook, or a new one, and run it"),
    icon: checkpointIcon,
    isEnabled: () => [null, "gguf"].every((format) => (target()?.format ?? null) !== format),
    execute: async () => {
      const found = target();
      if (found) await openInNotebook(found.path, found.format);
    },
  });
  commands.addCommand(EXPLORE_A_MODEL, {
    label: trans.__("Explore a Model"),
    caption: trans.__("A new notebook that opens shrinkwidget's explorer on a small trained network"),
    icon: checkpointIcon,
    execute: async (args) => {
      const folder = typeof args.cwd === "string" ? args.cwd : (browsers?.tracker.currentWidget?.model.path ?? "");
      await insertAndRun(app, await newNotebook(app, folder), STARTER);
    },
  });
  commands.addCommand(OPEN_A_CHECKPOINT, {
    label: trans.__("Open a Checkpoint"),
    caption: trans.__("Choose a safetensors or GGUF file, and see what is in it"),
    icon: checkpointIcon,
    execute: async () => {
      const chosen = await FileDialog.getOpenFiles({
        manager: documents,
        title: trans.__("Open a Checkpoint"),
        translator: translator ?? nullTranslator,
        filter: (item) => {
          const type = docRegistry.getFileTypesForPath(item.path)[0]?.name;
          return FILE_TYPES.some((known) => known.name === type) ? {} : null;
        },
      });
      for (const file of chosen.value ?? []) {
        await commands.execute("docmanager:open", { path: file.path, factory: FACTORY });
      }
    },
  });

  const category = trans.__("Shrink");
  for (const [rank, command] of [EXPLORE_A_MODEL, OPEN_A_CHECKPOINT].entries()) {
    launcher?.add({ command, category, rank });
    palette?.addItem({ command, category });
  }
  palette?.addItem({ command: OPEN_IN_NOTEBOOK, category });
  for (const { name } of FILE_TYPES.filter((type) => type.name !== "gguf")) {
    const selector = `.jp-DirListing-item[data-file-type="${name}"]`;
    app.contextMenu.addItem({ command: OPEN_IN_NOTEBOOK, selector, rank: 1 });
  }
}
