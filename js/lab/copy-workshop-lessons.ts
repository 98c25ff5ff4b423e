// Copies the workshop's lessons into a folder, by a kernel that ends when that is done.

import type { JupyterFrontEnd } from "@jupyterlab/application";
import { PathExt } from "@jupyterlab/coreutils";
import type { TranslationBundle } from "@jupyterlab/translation";

const FOLDER = "shrinkwidget-workshop";
// what a learner has changed there stays as it is
const COPY = `from shrinkwidget import workshop
_told = workshop.copy_lessons(${JSON.stringify(FOLDER)})`;

/** Copy the lessons into a folder of the server; returns the path of the first one. */
export async function copyLessons(app: JupyterFrontEnd, folder: string, trans: TranslationBundle): Promise<string> {
  const { kernelspecs, sessions } = app.serviceManager;
  await kernelspecs.ready;
  const session = await sessions.startNew({
    path: PathExt.join(folder, FOLDER),
    name: FOLDER,
    type: "console",
    kernel: { name: kernelspecs.specs?.default ?? "" },
  });
  try {
    const asked = {
      code: COPY,
      silent: true,
      store_history: false,
      user_expressions: { first: "workshop.lessons()[0].file" },
    };
    const { content } = await session.kernel!.requestExecute(asked).done;
    if (content.status !== "ok") {
      throw new Error("evalue" in content ? `${content.ename}: ${content.evalue}` : trans.__("the kernel ended"));
    }
    const first = content.user_expressions.first as { data: Record<string, string> };
    return PathExt.join(folder, FOLDER, first.data["text/plain"].replaceAll("'", ""));
  } finally {
    await session.shutdown();
  }
}
