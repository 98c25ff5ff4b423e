// How a checkpoint is opened as a document of which nothing is ever fetched but the header's table.

import { Clipboard } from "@jupyterlab/apputils";
import { PathExt, URLExt } from "@jupyterlab/coreutils";
import { ABCWidgetFactory, type DocumentRegistry, DocumentWidget } from "@jupyterlab/docregistry";
import { type Contents, RestContentProvider, type ServerConnection } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { DEFAULTS } from "../core/recipe";
import { type CheckpointTable, fetchTable } from "./checkpoint-table";
import { type Button, mountFailure, mountTable, type Translate } from "./checkpoint-view";
import { ComparisonClient } from "./comparison-client";
import { mountComparison } from "./comparison-view";
import { checkpointIcon } from "./icon";
import { TabMemory } from "./restore-tab-state";
import type { LiveSettings } from "./settings";
import { SketchClient } from "./sketch-client";
import { mountWeights } from "./weights-view";

/** Answers JupyterLab's question for a document with its name, size and date: a checkpoint may have 500 GB. */
export class NoContentProvider extends RestContentProvider {
  override async get(path: string, options?: Contents.IFetchOptions): Promise<Contents.IModel> {
    // nor a hash, for which the server would read the whole file into its memory, and answer nobody meanwhile
    const asked = { ...options, content: false, hash: false };
    // what is wrong with a file is told in its tab, by the viewer, and not in a dialog
    const model = await super.get(path, asked).catch(() => nothingAt(path));
    // of a writable file JupyterLab would make the copy it calls a checkpoint, when it is opened for the first time
    return { ...model, content: "", format: "text", type: "file", writable: false };
  }

  override async save(): Promise<Contents.IModel> {
    throw new Error("A checkpoint is not changed here."); // JupyterLab offers no way to here
  }
}

function nothingAt(path: string): Contents.IModel {
  // now: what could not be reached counts as changed each time, and its tab says what has become of it
  const now = new Date().toISOString();
  const unknown = { created: now, last_modified: now, mimetype: "" };
  return { ...unknown, name: PathExt.basename(path), path, type: "file", writable: false, content: "", format: "text" };
}

/** What a viewer needs of JupyterLab. */
export interface ViewerHost {
  server: ServerConnection.ISettings;
  settings: LiveSettings;
  trans: TranslationBundle;
  /** The path on the server, of one that may begin with the name of a drive. */
  localPath: (path: string) => string;
  /** Ask for a checkpoint to compare with; its path on the server, or null. */
  chooseOther: (viewer: CheckpointViewer) => Promise<string | null>;
  openInNotebook: (viewer: CheckpointViewer) => void;
  /** The code that reads a tensor, from the folder of the active notebook; without one, that opens the checkpoint. */
  code: (viewer: CheckpointViewer, table: CheckpointTable, tensor: number | null) => string;
}

/** The tab's content: asks the server for the table, and shows it. */
export class CheckpointViewer extends Widget {
  private _table: CheckpointTable | null = null;
  private asked = 0;
  private readonly memory: TabMemory;
  private unmount = () => {};
  private endComparison = () => {};

  constructor(
    private _path: string,
    readonly isFolder: boolean,
    private readonly host: ViewerHost,
  ) {
    super();
    this.memory = new TabMemory(_path);
    this.addClass("jp-shrinkwidget-checkpoint");
    this.node.tabIndex = -1;
  }

  /** Path of the file or folder, as JupyterLab writes it. */
  get path(): string {
    return this._path;
  }

  /** A file was renamed: nothing in it has changed. */
  set path(path: string) {
    this._path = path;
  }

  /** What is in the checkpoint, once it is known. */
  get table(): CheckpointTable | null {
    return this._table;
  }

  /** Ask for the table, also again. */
  async load(): Promise<void> {
    const { server, settings, trans, localPath, openInNotebook, code } = this.host;
    const { bytes } = settings;
    const translate: Translate = (text, ...values) => trans.__(text, ...values);
    this.asked += 1;
    const asked = this.asked;
    let show: () => () => void;
    try {
      const [table] = await Promise.all([fetchTable(localPath(this.path), server, translate), settings.ready]);
      this._table = table;
      show = () => {
        const unmountTable = mountTable(this.node, table, {
          translate,
          bytes,
          memory: this.memory,
          copy: (tensor) => Clipboard.copyToSystem(code(this, table, tensor)),
          openInNotebook: () => openInNotebook(this),
        });
        const unmountWeights = this.mountWeights(table);
        return () => {
          unmountWeights();
          unmountTable();
        };
      };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const buttons: Button[] = [{ label: trans.__("Try again"), onClick: () => void this.load() }];
      if (isPickle(this.path)) {
        buttons.push({ label: trans.__("Convert in notebook"), onClick: () => openInNotebook(this) });
      }
      show = () => mountFailure(this.node, message, buttons);
    }
    // an answer that comes after a later question, or after the tab was closed, is shown no more
    if (this.isDisposed || asked !== this.asked) return;
    this.unmount();
    this.unmount = show();
  }

  private mountWeights(table: CheckpointTable): () => void {
    if (table.format === "shrinkwidget") return () => {}; // its weights have to be unpacked by load
    const { settings, trans, chooseOther } = this.host;
    // as they are now: a setting that is changed later begins no new look at a file
    const { sparsity, bits, unaskedGigabytes } = settings.now.peek();
    return mountWeights(this.node, new SketchClient(() => this.connect()), {
      translate: (text, ...values) => trans.__(text, ...values),
      bytes: settings.bytes,
      memory: this.memory,
      nbytes: table.files.reduce((sum, file) => sum + file.bytes, 0),
      unasked: 1e9 * unaskedGigabytes,
      start: { sparsity: sparsity ?? DEFAULTS.sparsity, bits: bits ?? DEFAULTS.bits },
      compare: () => void chooseOther(this).then((other) => other !== null && this.compareWith(other)),
    });
  }

  /** Show how another checkpoint differs from this one; its path is one on the server. */
  compareWith(other: string): void {
    const { settings, trans } = this.host;
    this.endComparison();
    this.endComparison = mountComparison(this.node, new ComparisonClient(this.connect(other)), {
      translate: (text, ...values) => trans.__(text, ...values),
      bytes: settings.bytes,
      close: () => this.endComparison(),
    });
    this.node.scrollTop = 0;
  }

  /** Begin to look at the weights, or to compare them with those of another checkpoint. */
  private connect(other = ""): WebSocket {
    const { server, settings, localPath } = this.host;
    const { memoryGigabytes, minutes } = settings.now.peek();
    const query = new URLSearchParams({
      path: localPath(this.path),
      memory: String(Math.round(1e9 * memoryGigabytes)),
      seconds: String(Math.round(60 * minutes)),
    });
    if (other) query.set("with", other);
    // a browser's socket can send no header: the token goes with the address, as JupyterLab's own sockets have it
    if (server.appendToken && server.token) query.set("token", server.token);
    return new server.WebSocket(`${URLExt.join(server.wsUrl, "shrinkwidget/api/sketch")}?${query}`);
  }

  override dispose(): void {
    this.memory.clear();
    this.endComparison();
    this.unmount();
    super.dispose();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.asked === 0) void this.load();
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    if (!this.node.contains(document.activeElement)) this.node.focus({ preventScroll: true });
  }
}

/** Whether a file is a pickle by its name, which nothing here opens. */
export function isPickle(path: string): boolean {
  return [".pt", ".pth", ".ckpt", ".bin"].includes(PathExt.extname(path).toLowerCase());
}

/** The viewer of one file as JupyterLab's document. */
export class CheckpointFactory extends ABCWidgetFactory<DocumentWidget<CheckpointViewer>> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions<DocumentWidget<CheckpointViewer>>,
    private readonly host: ViewerHost,
  ) {
    super(options);
  }

  protected override createNewWidget(context: DocumentRegistry.Context): DocumentWidget<CheckpointViewer> {
    const content = new CheckpointViewer(context.path, false, this.host);
    const widget = new DocumentWidget({ content, context });
    widget.title.icon = checkpointIcon;
    widget.toolbar.hide(); // it would hold nothing but JupyterLab's "file is read-only"
    context.pathChanged.connect((_, path) => {
      content.path = path;
    });
    void context.ready.then(() => {
      context.fileChanged.connect(() => void content.load()); // "Reload from disk"
    });
    return widget;
  }
}
