// The list of layers, the newest on top.

const THUMB = 36;
const MODES = ["add", "replace", "scale", "erase"];

function makeLayers({ root, store, iconOf, colourOf, onChange, onHover, nameOf, say }) {
  const list = root.querySelector(".fb-layers");
  const empty = root.querySelector(".fb-empty");
  const count = root.querySelector(".fb-count");
  const rows = new Map();
  let open = null; // the id of the layer whose details are shown

  const called = (layer) => layer.name || nameOf(layer.brush);
  const worded = (key, layer) => TEXT[key].replace("{name}", called(layer));
  const layerAt = (id) => layerOf(store.painting, id);

  /** Whether a layer may not be changed; says so. */
  function refused(layer) {
    if (layer?.locked) say(worded("layer_locked", layer), 4000);
    return Boolean(layer?.locked);
  }

  function put(painting) {
    store.commit(painting);
    onChange();
  }

  /** What can be done to the layer of an id, or to the active one. */
  const acts = {
    hide: (layer) => put(withLayer(store.painting, layer.id, { visible: !layer.visible })),
    lock: (layer) => store.commit(withLayer(store.painting, layer.id, { locked: !layer.locked })),
    remove(layer) {
      if (refused(layer)) return;
      onHover(null);
      put(withoutLayer(store.painting, layer.id));
    },
    duplicate(layer) {
      const { painting, copy } = withDuplicate(store.painting, layer.id);
      put(painting);
      store.activate(copy.id);
    },
    merge(layer) {
      const below = store.painting.layers[placeOf(store.painting, layer.id) - 1];
      if (refused(layer) || refused(below)) return;
      if (!below) say(TEXT.merge_none, 4000);
      else if (!mergeable(layer, below)) say(TEXT.merge_refused.replace("{name}", called(layer)).replace("{below}", called(below)), 5000);
      else {
        put(withMerged(store.painting, layer.id));
        store.activate(below.id);
      }
    },
    flipX: (layer) => flip(layer, false),
    flipY: (layer) => flip(layer, true),
    raise: (layer) => move(layer, 1),
    lower: (layer) => move(layer, -1),
    rename: (layer) => rename(layer),
  };

  function move(layer, by) {
    const painting = withMoved(store.painting, layer.id, placeOf(store.painting, layer.id) + by);
    if (painting !== store.painting) put(painting);
  }

  function flip(layer, vertically) {
    if (!refused(layer)) put(withLayer(store.painting, layer.id, { mask: flippedMask(layer.mask, vertically) }));
  }

  /** Does it to the active layer; false if there is none. */
  const ofActive = (name) => () => (store.active ? acts[name](store.active) : false);

  function button(className, icon, act) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = className;
    if (icon) element.innerHTML = `<svg><use href="#${icon}"/></svg>`;
    element.addEventListener("click", act);
    return element;
  }

  function relabel(element, text) {
    element.title = text;
    element.setAttribute("aria-label", text);
  }

  function rename(layer) {
    const row = rows.get(layer.id);
    if (!row || refused(layer)) return;
    const field = Object.assign(document.createElement("input"), { value: layer.name, maxLength: 200, placeholder: nameOf(layer.brush) });
    field.className = "fb-rename";
    field.setAttribute("aria-label", worded("layer_rename", layer));
    let done = false;
    const end = (keep) => {
      if (done) return;
      done = true;
      field.remove();
      row.pick.hidden = false;
      const name = field.value.trim();
      if (keep && name !== layerAt(layer.id)?.name) store.commit(withLayer(store.painting, layer.id, { name }));
      row.pick.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      else if (event.key === "Escape") end(false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    field.addEventListener("blur", () => end(true));
    row.pick.hidden = true;
    row.pick.after(field);
    field.select();
  }

  /** Drags a row by its grip: the painting follows while it moves, and it is one step of the history. */
  function grab(row, id, event) {
    if (event.button !== 0) return;
    event.preventDefault();
    row.grip.setPointerCapture(event.pointerId);
    row.item.classList.add("fb-dragged");
    const follow = (moved) => {
      const places = [...list.children].map((item) => item.getBoundingClientRect());
      const above = places.filter((box, place) => list.children[place] !== row.item && box.top + box.height / 2 < moved.clientY).length;
      const painting = withMoved(store.painting, id, store.painting.layers.length - 1 - above);
      if (painting !== store.painting) store.preview(painting);
    };
    const stop = (ended) => {
      row.grip.removeEventListener("pointermove", follow);
      row.item.classList.remove("fb-dragged");
      if (ended.type === "pointercancel") store.revert();
      else store.commit();
      onChange();
    };
    row.grip.addEventListener("pointermove", follow);
    row.grip.addEventListener("lostpointercapture", stop, { once: true });
  }

  function sliderOf(id) {
    const slide = document.createElement("label");
    slide.className = "fb-slide";
    const range = Object.assign(document.createElement("input"), { type: "range", min: -2, max: 2, step: 0.05 });
    const output = document.createElement("output");
    slide.append(range, output);
    range.addEventListener("input", () => {
      const strength = Math.abs(range.value) < 0.04 ? 0 : Number(range.value);
      store.preview(withLayer(store.painting, id, { strength }));
      if (store.activeId === id) store.setTool({ strength });
      onChange();
    });
    range.addEventListener("change", () => store.commit());
    return { slide, range, output };
  }

  /** What is seldom needed: mode, steps, and what can be done with the layer. */
  function detailsOf(id) {
    const details = document.createElement("div");
    details.className = "fb-details";
    const mode = document.createElement("select");
    for (const name of MODES) mode.append(new Option(TEXT[`layer_mode_${name}`], name));
    mode.setAttribute("aria-label", TEXT.layer_mode);
    mode.addEventListener("change", () => put(withLayer(store.painting, id, { mode: mode.value })));
    const steps = ["layer_from", "layer_to"].map((key, end) => {
      const field = Object.assign(document.createElement("input"), { type: "number", min: 0, max: 100, step: 5 });
      field.setAttribute("aria-label", TEXT[key]);
      field.addEventListener("change", () => {
        const range = [...layerAt(id).steps];
        const share = Math.round(Number(field.value) || 0) / 100;
        range[end] = end ? Math.min(1, Math.max(share, range[0] + 0.01)) : Math.max(0, Math.min(share, range[1] - 0.01));
        put(withLayer(store.painting, id, { steps: range }));
      });
      return field;
    });
    const line = (text, ...fields) => {
      const row = document.createElement("div");
      row.append(text, ...fields);
      return row;
    };
    const does = (name, icon) => {
      const made = button("fb-icon", icon, () => acts[name](layerAt(id)));
      relabel(made, TEXT[`layer_do_${name}`]);
      return made;
    };
    const lock = does("lock", "fb-unlock");
    const bar = line("", does("rename", "fb-pen"), does("duplicate", "fb-copy"), does("merge", "fb-merge"), does("flipX", "fb-flip-x"), does("flipY", "fb-flip-y"), lock);
    bar.className = "fb-row";
    details.append(line(TEXT.layer_mode, mode), line(TEXT.layer_steps, steps[0], "–", steps[1], "%"), bar);
    return { details, mode, steps, lock };
  }

  function rowOf(layer) {
    const { id } = layer;
    const item = document.createElement("li");
    item.className = "fb-layer";
    item.style.setProperty("--hue", hueOf(layer.brush, store.concepts));

    const grip = button("fb-grip", "fb-grip", () => store.activate(id));
    const pick = button("fb-pick", "", () => store.activate(id));
    pick.addEventListener("dblclick", () => rename(layerAt(id)));
    const words = document.createElement("span");
    words.className = "fb-words";
    const name = document.createElement("b");
    const badge = document.createElement("i");
    words.append(name, badge);
    const thumb = document.createElement("canvas");
    thumb.className = "fb-thumb";
    thumb.width = thumb.height = THUMB;
    thumb.setAttribute("aria-hidden", "true");
    pick.append(iconOf(layer.brush), words, thumb);

    const eye = button("fb-icon", "fb-eye", () => acts.hide(layerAt(id)));
    const more = button("fb-icon", "fb-more", () => {
      open = open === id ? null : id;
      refresh();
    });
    const bin = button("fb-icon", "fb-bin", () => acts.remove(layerAt(id)));

    const row = { item, grip, pick, name, badge, thumb, eye, more, bin, mask: null, ...sliderOf(id), ...detailsOf(id) };
    item.append(grip, pick, eye, more, bin, row.slide, row.details);
    grip.addEventListener("pointerdown", (event) => grab(row, id, event));
    grip.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!by || event.altKey) return;
      event.preventDefault();
      move(layerAt(id), by);
      grip.focus(); // moving an element takes the focus from it
    });
    item.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") onHover(id);
    });
    item.addEventListener("pointerleave", () => onHover(null));
    return row;
  }

  function badgeOf(layer) {
    const said = [];
    if (layer.mode !== "add") said.push(TEXT[`layer_mode_${layer.mode}`]);
    if (layer.strength < 0 && layer.mode !== "erase") said.push(TEXT.layer_away);
    if (layer.locked) said.push(TEXT.layer_is_locked);
    return said.join(" · ");
  }

  function update(row, layer) {
    const active = layer.id === store.activeId;
    row.item.classList.toggle("fb-active", active);
    row.item.classList.toggle("fb-hidden", !layer.visible);
    row.pick.setAttribute("aria-pressed", String(active));
    relabel(row.pick, worded("layer_select", layer));
    relabel(row.grip, worded("layer_move", layer));
    row.name.textContent = called(layer);
    row.badge.textContent = badgeOf(layer);
    relabel(row.eye, worded(layer.visible ? "layer_hide" : "layer_show", layer));
    row.eye.querySelector("use").setAttribute("href", layer.visible ? "#fb-eye" : "#fb-eye-off");
    relabel(row.more, worded("layer_more", layer));
    row.more.setAttribute("aria-expanded", String(open === layer.id));
    row.details.hidden = open !== layer.id;
    relabel(row.bin, worded("layer_delete", layer));
    row.slide.hidden = layer.mode === "erase";
    row.range.disabled = row.mode.disabled = row.steps[0].disabled = row.steps[1].disabled = layer.locked;
    row.range.setAttribute("aria-label", worded("layer_strength", layer));
    setRange(row.range, layer.strength);
    row.output.textContent = `${Math.round(100 * layer.strength)}%`.replace("-", "−");
    row.mode.value = layer.mode;
    row.steps.forEach((field, end) => (field.value = Math.round(100 * layer.steps[end])));
    relabel(row.lock, TEXT[layer.locked ? "layer_do_unlock" : "layer_do_lock"]);
    row.lock.setAttribute("aria-pressed", String(layer.locked));
    row.lock.querySelector("use").setAttribute("href", layer.locked ? "#fb-lock" : "#fb-unlock");
    if (row.mask !== layer.mask) {
      row.mask = layer.mask;
      const context = row.thumb.getContext("2d");
      context.clearRect(0, 0, THUMB, THUMB);
      context.drawImage(maskImage(layer.mask, colourOf(layer.brush)), 0, 0, THUMB, THUMB);
    }
  }

  function refresh() {
    const layers = [...store.painting.layers].reverse();
    for (const [id, row] of rows) {
      if (layerAt(id)) continue;
      row.item.remove();
      rows.delete(id);
    }
    layers.forEach((layer, place) => {
      if (!rows.has(layer.id)) {
        rows.set(layer.id, rowOf(layer));
        list.scrollTop = 0;
      }
      const row = rows.get(layer.id);
      if (list.children[place] !== row.item) list.insertBefore(row.item, list.children[place] ?? null);
      update(row, layer);
    });
    empty.hidden = layers.length > 0;
    count.textContent = layers.length || "";
  }

  store.listen(refresh);
  refresh();
  return { ofActive, refused };
}
