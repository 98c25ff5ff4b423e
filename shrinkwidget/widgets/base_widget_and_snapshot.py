"""Base widget: thread-safe traits, and a static fallback image where no widget can be shown."""

from __future__ import annotations

import weakref
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Final, NoReturn, SupportsIndex

import anywidget
import traitlets as t
from IPython.display import display

from ..errors import ShrinkError, quoted

_LIVING: Final[weakref.WeakValueDictionary[int, BaseWidget]] = weakref.WeakValueDictionary()
STATIC: Final = Path(__file__).parent / "static"


def built(name: str) -> str | Path:
    """Return the built file, or JavaScript that says how to build it: a checkout has none until then."""
    if (STATIC / name).exists():
        return STATIC / name
    sentence = "shrinkwidget's JavaScript is not built: run 'npm ci' and 'npm run build' in the checkout, then restart."
    return f"export default {{render({{el}}) {{ el.textContent = {sentence!r}; }}}};" if name.endswith("js") else ""


def kernel_owned(trait: Any) -> Any:
    """Tag a trait as synced to the browser and never taken from there."""
    return trait.tag(sync=True, echo_update=False)


def living_widgets() -> list[BaseWidget]:
    """Return the widgets that are not closed, the oldest first."""
    return [widget for widget in list(_LIVING.values()) if not widget._closed]


class BaseWidget(anywidget.AnyWidget):
    """A widget whose traits are set from several threads, and that shows a picture where it cannot live.

    A subclass says what its picture is (`_snapshot`), whether there is one (`_alive`), and which traits a page may set.
    """

    _from_page: ClassVar[tuple[str, ...]] = ()
    _title = kernel_owned(t.Unicode())

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled: a widget lives in its kernel, with threads and a page."""
        raise TypeError(
            f"cannot pickle this {type(self).__name__}, which lives in its notebook: keep its recipe, which "
            f"pickles, or save what compress or retrain returned"
        )

    def __init__(self, **traits: Any) -> None:
        self._lock = RLock()
        self._drawing = RLock()  # of two pictures, the later one stays
        self._shown: Any = None
        self._closed = False
        super().__init__(**traits)
        _LIVING[id(self)] = self
        _answer_where_asked(self.comm)

    # traits, one thread at a time: ipywidgets swaps methods of the widget while it takes or holds a message

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the browser sends (ipywidgets calls this, on any thread), but only what it may set.

        A value that cannot be is told, and what the kernel has is sent back; ipywidgets would print a traceback.
        """
        # Whatever is not the page's to set is left out silently: echoes of our own news come this way, too.
        theirs = {name: value for name, value in sync_data.items() if name in self._from_page}
        try:
            with self._lock:
                super().set_state(theirs)
        except Exception as error:  # noqa: BLE001  # whatever cannot be set: the sender is told
            if not isinstance(error, ShrinkError):  # of a recipe that cannot be it has been told already
                self._refuse(f"the page set what cannot be: {quoted(theirs)}")
            self.send_state(list(theirs))

    def _handle_msg(self, msg: dict[str, Any]) -> None:
        """Take a message of the page; one that is none is told, without a traceback."""
        data = msg.get("content", {}).get("data")
        data = data if isinstance(data, dict) else {}
        buffers = data.get("buffer_paths", [])
        whole = {"update": isinstance(data.get("state"), dict) and not buffers, "custom": "content" in data}
        if whole.get(str(data.get("method")), data.get("method") == "request_state"):
            super()._handle_msg(msg)
        else:
            self._refuse(f"the page sent a message that cannot be read: {quoted(data)}")

    def _refuse(self, text: str) -> None:
        """Say that a message of the page makes no sense."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave the page, and let go of what was told: anywidget keeps the widget itself."""
        self._closed = True
        super().close()
        self.layout.close()
        with self._lock:
            for name, trait in self.traits(echo_update=False).items():
                setattr(self, name, trait.default(self))

    def _tell(self, **news: Any) -> None:
        """Set traits, from any thread; none once it is closed."""
        with self._lock:
            for name, value in () if self._closed else news.items():
                setattr(self, name, value)

    # display

    def _snapshot(self) -> dict[str, Any]:
        """Return a picture and a sentence of the present state, for where no widget can be shown."""
        raise NotImplementedError

    @property
    def _alive(self) -> bool:
        """Whether there is anything to show."""
        return True

    def _ipython_display_(self) -> None:
        """Show the widget, and under it a snapshot that is seen wherever the widget cannot live.

        The snapshots of all views are one display, so that none is left behind when they are brought up to date.
        """
        if not self._alive:
            display({"text/plain": repr(self)}, raw=True)
            return
        widget = super()._repr_mimebundle_()
        if widget is not None:
            data = widget[0] if isinstance(widget, tuple) else widget
            display(data | {"text/plain": self._caption}, raw=True)
            with self._drawing:
                one = self._shown.display_id if self._shown is not None else True
                picture = self._snapshot()
                self._shown = display(picture, metadata=alt_text(picture), raw=True, display_id=one)

    @property
    def _caption(self) -> str:
        """What stands above the picture where no widget can live: written once, it tells nothing that changes."""
        return f"{type(self).__name__} of {self._title}; the picture below is its last state"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return {**data, **self._snapshot()} if data is not None else None

    def _refresh_snapshot(self) -> None:
        """Bring the picture under the widget up to date, so that a saved notebook shows the last state."""
        with self._drawing:
            if self._shown is not None and self._alive and not self._closed:
                picture = self._snapshot()
                self._shown.update(picture, metadata=alt_text(picture), raw=True)


def alt_text(picture: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that gives a picture its words, for those who do not see it."""
    return {"image/png": {"alt": picture["text/plain"]}}


def _answer_where_asked(comm: Any) -> None:
    """Let the browser choose the thread its messages arrive on: JupyterLab asks for one that is free while a cell runs.

    ipykernel 7.4 instead sends them to the thread that spoke on this comm last, which waits for the running cell.
    """
    # Private, and gone in other versions: without the attribute there is nothing to do.
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = None
