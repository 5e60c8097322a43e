// The one state of the page: the painting with its history, and the tool in hand. Parts of the page listen to it.

const HISTORY = 200;

function makeStore(painting, tool) {
  const past = [];
  const future = [];
  const listeners = [];
  let settled = painting; // what undo goes back to while a stroke or a slider is on its way

  function tell(what) {
    for (const listener of listeners) listener(what);
  }

  function put(next) {
    store.painting = next;
    if (!layerOf(next, store.activeId)) store.activeId = null;
  }

  function travel(from, to) {
    if (!from.length) return;
    to.push(settled);
    settled = from.pop();
    put(settled);
    tell("painting");
  }

  const store = {
    painting,
    activeId: null,
    tool,
    concepts: [],
    listen: (listener) => listeners.push(listener),

    /** Shows a painting that is still being made: a stroke under the pointer, a slider on its way. */
    preview(next) {
      put(next);
      tell("painting");
    },

    /** Makes a painting, or what has been previewed, one step of the history. */
    commit(next = store.painting) {
      if (next === settled) return;
      past.push(settled);
      if (past.length > HISTORY) past.shift();
      future.length = 0;
      settled = next;
      put(next);
      tell("painting");
    },

    /** Takes back what has been previewed since the last step. */
    revert() {
      put(settled);
      tell("painting");
    },

    undo() {
      if (store.painting !== settled) store.commit(); // typing or a slider that has not settled is a step too
      travel(past, future);
    },
    redo: () => travel(future, past),
    get canUndo() {
      return past.length > 0 || store.painting !== settled;
    },
    get canRedo() {
      return future.length > 0;
    },

    /** The layer that strokes would extend or rub out, or null. */
    get active() {
      return layerOf(store.painting, store.activeId);
    },

    activate(id) {
      store.activeId = id;
      const layer = store.active;
      if (layer) {
        const { brush, strength } = layer;
        const mode = layer.mode === "erase" ? "erase" : "add";
        store.tool = { ...store.tool, brush, mode, strength: mode === "erase" ? store.tool.strength : strength };
      }
      tell("tool");
    },

    setTool(changes) {
      store.tool = { ...store.tool, ...changes };
      tell("tool");
    },
  };
  return store;
}
