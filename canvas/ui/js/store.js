// The one state of the page: the painting with its history, and the tool in hand. Parts of the page listen to it.

const HISTORY_BYTES = 128 * 2 ** 20;
const LAYER_BYTES = 512;

/** About what a painting takes beside the one after it, which shares its unchanged masks: as Python's `History` counts. */
function weightOf(painting, next) {
  const shared = new Set(next.layers.map((layer) => layer.mask));
  const own = new Set(painting.layers.map((layer) => layer.mask).filter((mask) => !shared.has(mask)));
  return LAYER_BYTES * (1 + painting.layers.length) + painting.prompt.length + MASK * MASK * own.size;
}

function makeStore(painting, tool) {
  const past = []; // of {painting, weight}, the oldest first
  const future = []; // of paintings
  let weight = 0; // of the past
  const listeners = [];
  let settled = painting; // what undo goes back to while a stroke or a slider is on its way

  function tell(what) {
    for (const listener of listeners) listener(what);
  }

  function put(next) {
    store.painting = next;
    if (!layerOf(next, store.activeId)) store.activeId = null;
  }

  /** The painting that is settled becomes the newest of the past, on the way to `next`. */
  function advance(next) {
    const step = { painting: settled, weight: weightOf(settled, next) };
    past.push(step);
    weight += step.weight;
    while (weight > HISTORY_BYTES && past.length > 1) weight -= past.shift().weight;
    settled = next;
    put(next);
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
      future.length = 0;
      advance(next);
    },

    /** Takes back what has been previewed since the last step. */
    revert() {
      put(settled);
      tell("painting");
    },

    undo() {
      if (store.painting !== settled) store.commit(); // typing or a slider that has not settled is a step too
      const step = past.pop();
      if (!step) return;
      weight -= step.weight;
      future.push(settled);
      settled = step.painting;
      put(settled);
      tell("painting");
    },
    redo() {
      if (future.length) advance(future.pop());
    },
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
