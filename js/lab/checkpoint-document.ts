// How a checkpoint is opened as a document of which nothing is ever fetched but the header's table.

import { Clipboard } from "@jupyterlab/apputils";
import { ABCWidgetFactory, type DocumentRegistry, DocumentWidget } from "@jupyterlab/docregistry";
import { type Contents, RestContentProvider, type ServerConnection } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { type CheckpointTable, fetchTable } from "./checkpoint-table";
import { mountFailure, mountTable } from "./checkpoint-view";
import { tensorCode } from "./python-code";

/** Answers JupyterLab's question for a document with its name, size and date: a checkpoint may have 500 GB. */
export class NoContentProvider extends RestContentProvider {
  override async get(path: string, options?: Contents.IFetchOptions): Promise<Contents.IModel> {
    const model = await super.get(path, { ...options, content: false });
    // of a writable file JupyterLab would make the copy it calls a checkpoint, when it is opened for the first time
    return { ...model, content: "", format: "text", type: "file", writable: false };
  }

  override async save(): Promise<Contents.IModel> {
    throw new Error("A checkpoint is not changed here.");
  }
}

interface ViewerOptions {
  settings: ServerConnection.ISettings;
  trans: TranslationBundle;
  openInNotebook: (path: string, format: string) => void;
}

/** The tab's content: asks the server for the table, and shows it. */
export class CheckpointViewer extends Widget {
  private table: CheckpointTable | null = null;
  private unmount = () => {};

  constructor(
    private readonly path: string,
    private readonly options: ViewerOptions,
  ) {
    super();
    this.addClass("jp-shrinkwidget-checkpoint");
  }

  /** The format of the file, once it is known. */
  get format(): string | null {
    return this.table?.format ?? null;
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (!this.table) void this.load();
  }

  override dispose(): void {
    this.unmount();
    super.dispose();
  }

  private async load(): Promise<void> {
    const { settings, trans, openInNotebook } = this.options;
    this.unmount();
    try {
      const table = await fetchTable(this.path, settings);
      if (this.isDisposed) return;
      this.table = table;
      this.unmount = mountTable(this.node, table, {
        translate: (text, ...values) => trans.__(text, ...values),
        copy: (tensor) => Clipboard.copyToSystem(tensorCode(this.path, table.format, tensor)),
        openInNotebook: table.format === "gguf" ? null : () => openInNotebook(this.path, table.format),
      });
    } catch (error) {
      if (this.isDisposed) return;
      const message = error instanceof Error ? error.message : String(error);
      this.unmount = mountFailure(this.node, message, trans.__("Try again"), () => void this.load());
    }
  }
}

export class CheckpointFactory extends ABCWidgetFactory<DocumentWidget<CheckpointViewer>> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions<DocumentWidget<CheckpointViewer>>,
    private readonly viewer: ViewerOptions & { localPath: (path: string) => string },
  ) {
    super(options);
  }

  protected override createNewWidget(context: DocumentRegistry.Context): DocumentWidget<CheckpointViewer> {
    const content = new CheckpointViewer(this.viewer.localPath(context.path), this.viewer);
    const widget = new DocumentWidget({ content, context });
    widget.toolbar.hide(); // it would hold nothing but JupyterLab's "file is read-only"
    return widget;
  }
}
