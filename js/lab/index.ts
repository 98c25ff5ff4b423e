// The JupyterLab extension: opens checkpoints from the file browser, and starts from the launcher.

import { ILabShell, ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, MainAreaWidget, Notification, showErrorMessage, WidgetTracker } from "@jupyterlab/apputils";
import { PathExt } from "@jupyterlab/coreutils";
import { IDocumentManager } from "@jupyterlab/docmanager";
import type { DocumentRegistry, IDocumentWidget } from "@jupyterlab/docregistry";
import { FileDialog, IFileBrowserFactory } from "@jupyterlab/filebrowser";
import { ILauncher } from "@jupyterlab/launcher";
import { INotebookTracker } from "@jupyterlab/notebook";
import { type Contents, IDefaultDrive } from "@jupyterlab/services";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { ITranslator, nullTranslator, type TranslationBundle } from "@jupyterlab/translation";
import { convertCode, openCode, STARTER, tensorCode } from "./checkpoint-code-in-python";
import {
  CheckpointFactory,
  CheckpointViewer,
  isPickle,
  NoContentProvider,
  type ViewerHost,
} from "./checkpoint-document";
import { type CheckpointTable, fetchTable } from "./checkpoint-table";
import { copyLessons } from "./copy-workshop-lessons";
import { checkpointIcon } from "./icon";
import { ModelsPanel } from "./models-and-trainings-panel";
import { insertCell, newNotebook, openWrittenNotebook } from "./open-in-notebook";
import { liveSettings, PLUGIN } from "./settings";

const FACTORY = "Checkpoint";
const NO_CONTENT = "shrinkwidget-no-content";

const OPEN_IN_NOTEBOOK = "shrinkwidget:open-in-notebook";
const EXPLORE_A_MODEL = "shrinkwidget:explore-a-model";
const WORKSHOP = "shrinkwidget:workshop";
const COMPARE = "shrinkwidget:compare-with";
const OPEN_A_CHECKPOINT = "shrinkwidget:open-a-checkpoint";
const OPEN_FOLDER = "shrinkwidget:open-folder";

const checkpoints: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: "Opens safetensors and GGUF checkpoints, without a kernel.",
  autoStart: true,
  requires: [IDocumentManager, IDefaultDrive],
  optional: [
    ITranslator,
    ISettingRegistry,
    ILayoutRestorer,
    ICommandPalette,
    ILauncher,
    INotebookTracker,
    IFileBrowserFactory,
    ILabShell,
  ],
  activate: activateCheckpoints,
};

const SHOW_MODELS = "shrinkwidget:show-models";

const models: JupyterFrontEndPlugin<void> = {
  id: "shrinkwidget:models",
  description: "Lists the models in the kernel of the active notebook, and opens the explorer on them.",
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ITranslator, ISettingRegistry, ILayoutRestorer, ICommandPalette, ILabShell],
  activate: (
    app: JupyterFrontEnd,
    notebooks: INotebookTracker,
    translator: ITranslator | null,
    registry: ISettingRegistry | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    tabs: ILabShell | null,
  ) => {
    const trans = (translator ?? nullTranslator).load("shrinkwidget");
    const panel = new ModelsPanel({ app, notebooks, trans, bytes: liveSettings(registry).bytes, tabs });
    app.shell.add(panel, "right", { rank: 800 });
    restorer?.add(panel, panel.id);
    app.commands.addCommand(SHOW_MODELS, {
      label: trans.__("Show Models"),
      caption: trans.__("List the models in the kernel of the active notebook"),
      icon: checkpointIcon,
      execute: () => app.shell.activateById(panel.id),
      describedBy: { args: { type: "object", properties: {} } },
    });
    palette?.addItem({ command: SHOW_MODELS, category: trans.__("Shrink") });
  },
};

export default [checkpoints, models];

function fileTypes(trans: TranslationBundle) {
  return [
    {
      name: "safetensors",
      displayName: trans.__("Safetensors checkpoint"),
      extensions: [".safetensors"],
      icon: checkpointIcon,
    },
    {
      name: "safetensors-index",
      displayName: trans.__("Sharded checkpoint"),
      extensions: [".safetensors.index.json"],
      icon: checkpointIcon,
    },
    { name: "gguf", displayName: trans.__("GGUF checkpoint"), extensions: [".gguf"], icon: checkpointIcon },
    {
      // not opened, but told why, where JupyterLab would complain that it is no text; .bin may be anything else
      name: "pytorch-pickle",
      displayName: trans.__("PyTorch checkpoint (pickle)"),
      extensions: [".pt", ".pth", ".ckpt"],
      pattern: "^((diffusion_)?pytorch|adapter)_model.*\\.bin$",
    },
  ];
}

function activateCheckpoints(
  app: JupyterFrontEnd,
  documents: IDocumentManager,
  drive: Contents.IDrive,
  translator: ITranslator | null,
  registry: ISettingRegistry | null,
  restorer: ILayoutRestorer | null,
  palette: ICommandPalette | null,
  launcher: ILauncher | null,
  notebooks: INotebookTracker | null,
  browsers: IFileBrowserFactory | null,
  tabs: ILabShell | null,
): void {
  const trans = (translator ?? nullTranslator).load("shrinkwidget");
  const { commands, docRegistry, serviceManager, shell } = app;
  const { contents, serverSettings } = serviceManager;
  const settings = liveSettings(registry);

  drive.contentProviderRegistry?.register(
    NO_CONTENT,
    new NoContentProvider({ apiEndpoint: "/api/contents", serverSettings }),
  );
  const types = fileTypes(trans);
  for (const type of types) {
    docRegistry.addFileType({ ...type, fileFormat: "text", contentType: "file", mimeTypes: [] });
  }

  /** The path by which code in the active notebook reaches a file; without one, a notebook beside the file. */
  const pathFromNotebook = (path: string): string => {
    const active = notebooks?.currentWidget;
    const folder = PathExt.dirname(contents.localPath(active ? active.context.path : path));
    return PathExt.relative(`/${folder}`, `/${contents.localPath(path)}`);
  };
  const openInNotebook = async (path: string, known: CheckpointTable | null): Promise<void> => {
    const pickle = isPickle(path);
    try {
      // what a file holds is not told by its name: a packed model is a .safetensors file, too
      const { format } = pickle
        ? { format: "" }
        : (known ?? (await fetchTable(contents.localPath(path), serverSettings, trans.__.bind(trans))));
      const code = pickle ? convertCode(pathFromNotebook(path)) : openCode(pathFromNotebook(path), format, start());
      const folder = PathExt.dirname(contents.localPath(path));
      const active = notebooks?.currentWidget;
      // Notebook 7 has a page for each document: the cell has to stand in the file before that page is opened
      if (!active && !tabs) await openWrittenNotebook(app, folder, code);
      else await insertCell(app, active ?? (await newNotebook(app, folder)), code, { run: !pickle });
    } catch (error) {
      await showErrorMessage(trans.__("Open in Notebook"), error instanceof Error ? error : String(error));
    }
  };
  const start = () => settings.now.peek();
  const isCheckpoint = (path: string) => {
    const type = docRegistry.getFileTypesForPath(path)[0]?.name;
    return types.some((known) => known.name === type);
  };
  /** Ask for checkpoints; returns their paths, none if nobody chose. */
  const choose = async (title: string, defaultPath?: string): Promise<string[]> => {
    const chosen = await FileDialog.getOpenFiles({
      manager: documents,
      title,
      translator: translator ?? nullTranslator,
      filter: (item) => (isCheckpoint(item.path) ? {} : null),
      ...(defaultPath === undefined ? {} : { defaultPath }),
    });
    return (chosen.value ?? []).map((file) => file.path);
  };
  const host: ViewerHost = {
    server: serverSettings,
    settings,
    trans,
    localPath: (path) => contents.localPath(path),
    chooseOther: async ({ path }) => {
      const [other] = await choose(trans.__("Compare with…"), PathExt.dirname(path));
      return other === undefined ? null : contents.localPath(other);
    },
    openInNotebook: ({ path, table }) => void openInNotebook(path, table),
    code: ({ path, isFolder }, table, tensor) => {
      if (tensor === null) return openCode(pathFromNotebook(path), table.format, start());
      const file = table.files[table.tensors.file[tensor]].name;
      const whole = PathExt.join(isFolder ? path : PathExt.dirname(path), file);
      return tensorCode(pathFromNotebook(whole), table.format, table.tensors.name[tensor]);
    },
  };

  const factory = new CheckpointFactory(
    {
      name: FACTORY,
      label: trans.__("Checkpoint"),
      fileTypes: types.map((type) => type.name),
      defaultFor: types.map((type) => type.name),
      readOnly: true,
      contentProviderId: NO_CONTENT,
    },
    host,
  );
  const files = new WidgetTracker<IDocumentWidget<CheckpointViewer>>({ namespace: "shrinkwidget-checkpoints" });
  factory.widgetCreated.connect((_, widget) => {
    widget.context.pathChanged.connect(() => void files.save(widget));
    void files.add(widget);
  });
  // their types leave out that an optional property may be undefined, as ours are checked for
  docRegistry.addWidgetFactory(factory as DocumentRegistry.WidgetFactory);
  void restorer?.restore(files, {
    command: "docmanager:open",
    args: (widget) => ({ path: widget.context.path, factory: FACTORY }),
    name: (widget) => widget.context.path,
  });
  const folders = new WidgetTracker<MainAreaWidget<CheckpointViewer>>({ namespace: "shrinkwidget-folders" });
  void restorer?.restore(folders, {
    command: OPEN_FOLDER,
    args: (widget) => ({ path: widget.content.path }),
    name: (widget) => widget.content.path,
  });

  const selectedPath = () => browsers?.tracker.currentWidget?.selectedItems().next().value?.path ?? null;
  const frontViewer = () => {
    const front = shell.currentWidget;
    return front instanceof MainAreaWidget && front.content instanceof CheckpointViewer ? front.content : null;
  };
  commands.addCommand(OPEN_IN_NOTEBOOK, {
    label: trans.__("Open in Notebook"),
    caption: trans.__("Put a cell that opens this checkpoint into the active notebook, or a new one, and run it"),
    icon: checkpointIcon,
    isEnabled: ({ selected }) => selected === true || frontViewer() !== null || isCheckpoint(selectedPath() ?? ""),
    execute: async ({ selected }) => {
      const viewer = selected === true ? null : frontViewer();
      const path = viewer?.path ?? selectedPath();
      if (path !== null) await openInNotebook(path, viewer?.table ?? null);
    },
    describedBy: { args: SELECTED },
  });
  commands.addCommand(OPEN_FOLDER, {
    label: trans.__("Open as Checkpoint"),
    caption: trans.__("Show the checkpoint in this folder"),
    icon: checkpointIcon,
    isVisible: () => tabs !== null, // Notebook 7 shows one document a page, and a folder is none
    execute: ({ path: given }) => {
      const path = typeof given === "string" ? given : selectedPath();
      if (path === null) return;
      const found = folders.find((widget) => widget.content.path === path);
      const widget = found ?? new MainAreaWidget({ content: new CheckpointViewer(path, true, host) });
      if (!found) {
        widget.id = `shrinkwidget-folder-${path}`;
        widget.title.label = PathExt.basename(path);
        widget.title.caption = path;
        widget.title.icon = checkpointIcon;
        widget.title.closable = true;
        widget.toolbar.hide();
        shell.add(widget, "main");
        void folders.add(widget);
      }
      shell.activateById(widget.id);
    },
    describedBy: { args: { type: "object", properties: { path: { type: "string" } } } },
  });
  commands.addCommand(EXPLORE_A_MODEL, {
    label: trans.__("Explore a Model"),
    caption: trans.__("A new notebook that opens shrinkwidget's explorer on a small trained network"),
    icon: checkpointIcon,
    execute: async ({ cwd }) => {
      const folder = typeof cwd === "string" ? cwd : (browsers?.tracker.currentWidget?.model.path ?? "");
      if (tabs) await insertCell(app, await newNotebook(app, folder), STARTER, { run: true });
      else await openWrittenNotebook(app, folder, STARTER);
    },
    describedBy: { args: { type: "object", properties: { cwd: { type: "string" } } } },
  });
  commands.addCommand(WORKSHOP, {
    label: trans.__("Workshop"),
    caption: trans.__("Copy the lessons on compression into this folder, and open the first"),
    icon: checkpointIcon,
    execute: async ({ cwd }) => {
      const folder = typeof cwd === "string" ? cwd : (browsers?.tracker.currentWidget?.model.path ?? "");
      const copied = copyLessons(app, folder, trans);
      Notification.promise(copied, {
        pending: { message: trans.__("Copying the lessons…") },
        success: { message: (path) => trans.__("The lessons are in %1", PathExt.dirname(path as string)) },
        error: { message: (reason) => trans.__("The lessons could not be copied: %1", String(reason)) },
      });
      const path = await copied.catch(() => null); // the notification says why
      if (path !== null) await commands.execute("docmanager:open", { path });
    },
    describedBy: { args: { type: "object", properties: { cwd: { type: "string" } } } },
  });
  commands.addCommand(OPEN_A_CHECKPOINT, {
    label: trans.__("Open a Checkpoint"),
    caption: trans.__("Choose a safetensors or GGUF file, and see what is in it"),
    icon: checkpointIcon,
    execute: async () => {
      for (const path of await choose(trans.__("Open a Checkpoint"))) {
        await commands.execute("docmanager:open", { path, factory: FACTORY });
      }
    },
    describedBy: { args: { type: "object", properties: {} } },
  });

  commands.addCommand(COMPARE, {
    label: trans.__("Compare with…"),
    caption: trans.__("Choose another checkpoint, and see what changed in each tensor"),
    icon: checkpointIcon,
    isEnabled: () => frontViewer() !== null,
    execute: async ({ other }) => {
      const viewer = frontViewer();
      const path = typeof other === "string" ? other : viewer && (await host.chooseOther(viewer));
      if (path) viewer?.compareWith(contents.localPath(path));
    },
    describedBy: { args: { type: "object", properties: { other: { type: "string" } } } },
  });

  const category = trans.__("Shrink");
  for (const [rank, command] of [EXPLORE_A_MODEL, WORKSHOP, OPEN_A_CHECKPOINT].entries()) {
    launcher?.add({ command, category, rank });
    palette?.addItem({ command, category });
  }
  palette?.addItem({ command: OPEN_IN_NOTEBOOK, category });
  palette?.addItem({ command: COMPARE, category });
}

const SELECTED = {
  type: "object",
  properties: {
    selected: { type: "boolean", description: "Whether to open the file selected in the file browser." },
  },
};
