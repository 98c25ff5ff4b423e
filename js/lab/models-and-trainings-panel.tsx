// The side panel "Models": what the active notebook's kernel holds, and the explorer of a model in a tab beside it.

import type { ILabShell, JupyterFrontEnd } from "@jupyterlab/application";
import { type ISessionContext, MainAreaWidget, showErrorMessage } from "@jupyterlab/apputils";
import { type INotebookTracker, NotebookActions, type NotebookPanel } from "@jupyterlab/notebook";
import type { KernelMessage } from "@jupyterlab/services";
import type { TranslationBundle } from "@jupyterlab/translation";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { signal } from "@preact/signals";
import { render } from "preact";
import { short } from "../charts/number-format";
import { watchTheme } from "../charts/theme";
import { checkpointIcon } from "./icon";
import {
  closeExplorer,
  type Listing,
  listModels,
  openExplorer,
  showsTraining,
  stopTraining,
  type When,
} from "./kernel-models-and-trainings";

const WIDGET_VIEW = "application/vnd.jupyter.widget-view+json";
/** So often a training's progress is asked for while it is in sight. */
const POLL_MILLISECONDS = 1000;

export interface PanelHost {
  app: JupyterFrontEnd;
  notebooks: INotebookTracker;
  trans: TranslationBundle;
  bytes: (value: number) => string;
  /** Null in Notebook 7, which has one tab. */
  tabs: ILabShell | null;
}

export class ModelsPanel extends Widget {
  private readonly listing = signal<Listing | null>(null);
  private readonly failed = signal("");
  private readonly unwatch: () => void;
  /** Notebooks whose kernels have not answered yet: true, if what they will say may be out of date by then. */
  private readonly asked = {
    "after cells": new Map<NotebookPanel, boolean>(),
    "beside cells": new Map<NotebookPanel, boolean>(),
  };

  constructor(private readonly host: PanelHost) {
    super();
    const { notebooks, trans } = host;
    this.id = "shrinkwidget-models";
    this.addClass("jp-shrinkwidget-models");
    this.title.icon = checkpointIcon;
    this.title.caption = trans.__("Models in the notebook's kernel");
    const root = this.node.appendChild(document.createElement("div"));
    root.className = "sw-explorer sw-models";
    this.unwatch = watchTheme(root, () => {});
    render(<Models panel={this} host={host} listing={this.listing} failed={this.failed} />, root);
    notebooks.currentChanged.connect(this.onNotebook, this);
    NotebookActions.executed.connect(this.onExecuted, this);
    this.onNotebook();
  }

  get notebook(): NotebookPanel | null {
    return this.host.notebooks.currentWidget;
  }

  /** Ask the kernel, unless nobody would see the answer. */
  async refresh(when: When = "after cells"): Promise<void> {
    const { notebook } = this;
    const asked = this.asked[when];
    if (!notebook || !this.isVisible) return;
    if (asked.has(notebook)) {
      asked.set(notebook, true);
      return;
    }
    asked.set(notebook, false);
    let found: Listing | null = null;
    let failed = "";
    try {
      found = await listModels(notebook, this.host.trans, when);
    } catch (error) {
      failed = error instanceof Error ? error.message : String(error);
    }
    const outdated = asked.get(notebook);
    asked.delete(notebook);
    if (this.isDisposed || notebook !== this.notebook) return;
    this.listing.value = found;
    this.failed.value = failed;
    if (outdated) void this.refresh(when);
    else if (found?.trainings.length) {
      setTimeout(() => void this.refresh("beside cells"), POLL_MILLISECONDS);
    }
  }

  /** Show the explorer of a model in a tab beside the notebook; one that a cell shows is the same explorer. */
  async open(name: string): Promise<void> {
    const { notebook } = this;
    if (!notebook) return;
    const { app, trans, tabs } = this.host;
    try {
      const id = await openExplorer(notebook, trans, name);
      const { rendermime } = notebook.content;
      const view = rendermime.createRenderer(WIDGET_VIEW);
      const data = { [WIDGET_VIEW]: { version_major: 2, version_minor: 0, model_id: id } };
      await view.renderModel(rendermime.createModel({ data }));
      view.addClass("jp-shrinkwidget-explorer");
      const tab = new MainAreaWidget({ content: view });
      tab.title.label = name;
      tab.title.caption = trans.__("Explorer of %1 in %2", name, notebook.title.label);
      tab.title.icon = checkpointIcon;
      tab.title.closable = true;
      tab.toolbar.hide();
      if (tabs) app.shell.add(tab, "main", { mode: "split-right", ref: notebook.id });
      else app.shell.add(tab, "down");
      app.shell.activateById(tab.id);
      notebook.disposed.connect(() => tab.dispose());
      tab.disposed.connect(() => {
        if (!notebook.isDisposed) void closeExplorer(notebook, trans, id).catch(() => {}); // the kernel may be gone as well
      });
    } catch (error) {
      await showErrorMessage(trans.__("Explore %1", name), error instanceof Error ? error : String(error));
    }
  }

  async stop(id: string): Promise<void> {
    const { notebook, host } = this;
    if (notebook) await stopTraining(notebook, host.trans, id).catch(() => {}); // what is wrong, the next answer tells
    void this.refresh("beside cells");
  }

  override dispose(): void {
    this.unwatch();
    render(null, this.node.firstElementChild!);
    NotebookActions.executed.disconnect(this.onExecuted, this);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    void this.refresh();
  }

  private onNotebook(): void {
    this.listing.value = null;
    this.failed.value = "";
    const session = this.notebook?.sessionContext;
    session?.kernelChanged.disconnect(this.onKernel, this);
    session?.kernelChanged.connect(this.onKernel, this);
    session?.statusChanged.disconnect(this.onStatus, this);
    session?.statusChanged.connect(this.onStatus, this);
    session?.iopubMessage.disconnect(this.onMessage, this);
    session?.iopubMessage.connect(this.onMessage, this);
    void this.refresh();
  }

  private onKernel(): void {
    this.listing.value = null;
    void this.refresh();
  }

  private onStatus(_: unknown, status: string): void {
    if (status === "restarting" || status === "dead") this.onKernel();
  }

  private onMessage(session: ISessionContext, message: KernelMessage.IMessage): void {
    if (session === this.notebook?.sessionContext && showsTraining(message)) void this.refresh("beside cells");
  }

  private onExecuted(_: unknown, { notebook }: { notebook: Widget }): void {
    if (notebook === this.notebook?.content) void this.refresh();
  }
}

interface ModelsProps {
  panel: ModelsPanel;
  host: PanelHost;
  listing: { value: Listing | null };
  failed: { value: string };
}

function Models({ panel, host, listing, failed }: ModelsProps) {
  const t = host.trans.__.bind(host.trans);
  const { bytes } = host;
  const found = listing.value;
  return (
    <>
      <h3>{t("Models")}</h3>
      {failed.value !== "" && <p role="alert">{failed.value}</p>}
      {failed.value === "" && found === null && <p>{t("Open a notebook with a Python kernel to see its models.")}</p>}
      {found?.models.length === 0 && <p>{t("No variable of the active notebook holds a torch module.")}</p>}
      <ul aria-label={t("Models")}>
        {found?.models.map((model) => (
          <li key={model.name} data-testid="kernel-model">
            <button type="button" onClick={() => void panel.open(model.name)} title={t("Explore %1", model.name)}>
              <b>{[model.name, ...model.names].join(" = ")}</b> <span>{model.class}</span>
              <small>
                {[t("%1 parameters", short(model.parameters)), bytes(model.bytes), model.device]
                  .filter(Boolean)
                  .join(" · ")}
              </small>
            </button>
          </li>
        ))}
      </ul>
      {found !== null && found.trainings.length > 0 && (
        <>
          <h3>{t("Trainings")}</h3>
          <ul aria-label={t("Trainings")}>
            {found.trainings.map((training) => (
              <li key={training.id} data-testid="kernel-training">
                <span>
                  {training.model}
                  <small>{[training.state, training.place].filter(Boolean).join(" · ")}</small>
                </span>
                <button type="button" class="sw-button" onClick={() => void panel.stop(training.id)}>
                  {t("Stop")}
                </button>
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}
