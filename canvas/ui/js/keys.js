// Every shortcut of the page, in one table: what listens to them and the list of them are made from it.

/** By group: keys, and the name of what they do in `text.json`. */
const KEYS = {
  keys_tools: [["B", "key_paint"], ["X", "key_remove"], ["E", "key_rub"], ["V", "key_move"], ["I", "key_inspect"], ["[", "key_smaller"], ["]", "key_larger"], ["{", "key_softer"], ["}", "key_harder"],
    ["1", "key_brush"], ["2", "key_rect"], ["3", "key_ellipse"], ["4", "key_lasso"], ["5", "key_flood"]],
  keys_picture: [["Arrows", "key_cursor"], ["Space", "key_dab"], ["Alt+Click", "key_pick"], ["+", "key_zoom_in"], ["-", "key_zoom_out"], ["0", "key_zoom_fit"],
    ["Space+Drag", "key_pan"], ["O", "key_masks"], ["Escape", "key_cancel"], ["C", "key_compare"], ["S", "key_snapshot"], ["R", "key_roll"], ["A", "key_variations"]],
  keys_palette: [["/", "key_search"], ["M", "key_map"], ["F", "key_star"]],
  keys_layers: [["Alt+ArrowUp", "key_raise"], ["Alt+ArrowDown", "key_lower"], ["Ctrl+D", "key_duplicate"], ["Ctrl+M", "key_merge"], ["Shift+H", "key_flip_x"], ["Shift+V", "key_flip_y"], ["H", "key_hide"], ["L", "key_lock"], ["F2", "key_rename"], ["Delete", "key_delete"]],
  keys_painting: [["Ctrl+Z", "key_undo"], ["Ctrl+Shift+Z", "key_redo"], ["Ctrl+Y", "key_redo"], ["Ctrl+O", "key_open"], ["Ctrl+S", "key_save"], ["Ctrl+E", "key_export"], ["G", "key_gallery"], ["?", "key_help"]],
};
const EVEN_TYPING = ["key_open", "key_save", "key_export"];

/** What is pressed, as the table writes it. */
function comboOf(event) {
  const held = [];
  if (event.ctrlKey || event.metaKey) held.push("Ctrl");
  if (event.altKey) held.push("Alt");
  const named = event.key.length > 1;
  if (event.shiftKey && (named || held.length || /[a-z]/i.test(event.key))) held.push("Shift");
  const key = { " ": "Space", "=": "+" }[event.key] ?? (named ? event.key : event.key.toUpperCase());
  return [...held, key].join("+");
}

/** `actions` by the table's names; an action that answers false lets the browser have its key. */
function makeKeys({ root, actions }) {
  const dialog = root.querySelector("dialog.fb-keys");
  const names = new Map(Object.values(KEYS).flat());
  const shown = { ArrowUp: "↑", ArrowDown: "↓", Arrows: "← ↑ → ↓", Escape: "Esc", Delete: "Del" };

  for (const [group, keys] of Object.entries(KEYS)) {
    const section = document.createElement("section");
    const title = document.createElement("h3");
    title.textContent = TEXT[group];
    const list = document.createElement("dl");
    for (const [combo, name] of keys) {
      const what = document.createElement("dt");
      what.textContent = TEXT[name];
      const how = document.createElement("dd");
      for (const key of combo === "+" ? [combo] : combo.split("+")) how.append(Object.assign(document.createElement("kbd"), { textContent: shown[key] ?? key }));
      list.append(what, how);
    }
    section.append(title, list);
    dialog.querySelector(".fb-keys-list").append(section);
  }
  const help = () => dialog.showModal();
  dialog.querySelector("[data-do=close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  function onKey(event) {
    if (!root.isConnected) {
      document.removeEventListener("keydown", onKey);
      return;
    }
    if (event.target.closest?.("dialog, [role=menu]")) return; // they have keys of their own
    const name = names.get(comboOf(event));
    const act = { ...actions, key_help: help }[name];
    const typing = event.target.closest?.("textarea, select, input:not([type=range])");
    if (!act || (typing && !EVEN_TYPING.includes(name)) || act() === false) return;
    event.preventDefault();
  }
  document.addEventListener("keydown", onKey);
  return { help };
}
