// The list of layers, the newest on top.

const THUMB = 36;

function makeLayers({ root, store, iconOf, colourOf, onChange, onHover, nameOf }) {
  const list = root.querySelector(".fb-layers");
  const empty = root.querySelector(".fb-empty");
  const count = root.querySelector(".fb-count");
  const rows = new Map();
  const say = (key, layer) => TEXT[key].replace("{name}", layer.name || nameOf(layer.brush));

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

  function rowOf(layer) {
    const { id } = layer;
    const item = document.createElement("li");
    item.className = "fb-layer";
    item.style.setProperty("--hue", hueOf(layer.brush, store.concepts));

    const pick = button("fb-pick", "", () => store.activate(id));
    const words = document.createElement("span");
    words.className = "fb-words";
    const name = document.createElement("b");
    const badge = document.createElement("i");
    badge.textContent = TEXT.layer_removes;
    words.append(name, badge);
    const thumb = document.createElement("canvas");
    thumb.className = "fb-thumb";
    thumb.width = thumb.height = THUMB;
    thumb.setAttribute("aria-hidden", "true");
    pick.append(iconOf(layer.brush), words, thumb);

    const eye = button("fb-icon", "fb-eye", () => {
      store.commit(withLayer(store.painting, id, { visible: !layerOf(store.painting, id).visible }));
      onChange();
    });
    const bin = button("fb-icon", "fb-bin", () => {
      store.commit(withoutLayer(store.painting, id));
      onHover(null);
      onChange();
    });

    const slide = document.createElement("label");
    slide.className = "fb-slide";
    const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 2, step: 0.05 });
    const output = document.createElement("output");
    slide.append(range, output);
    range.addEventListener("input", () => {
      const strength = Number(range.value);
      store.preview(withLayer(store.painting, id, { strength }));
      if (store.activeId === id) store.setTool({ strength });
      onChange();
    });
    range.addEventListener("change", () => store.commit());

    item.append(pick, eye, bin, slide);
    item.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") onHover(id);
    });
    item.addEventListener("pointerleave", () => onHover(null));
    return { item, pick, name, badge, thumb, eye, bin, slide, range, output, mask: null };
  }

  function update(row, layer) {
    const active = layer.id === store.activeId;
    row.item.classList.toggle("fb-active", active);
    row.item.classList.toggle("fb-hidden", !layer.visible);
    row.pick.setAttribute("aria-pressed", String(active));
    relabel(row.pick, say("layer_select", layer));
    row.name.textContent = layer.name || nameOf(layer.brush);
    row.badge.hidden = layer.mode !== "erase";
    relabel(row.eye, say(layer.visible ? "layer_hide" : "layer_show", layer));
    row.eye.querySelector("use").setAttribute("href", layer.visible ? "#fb-eye" : "#fb-eye-off");
    relabel(row.bin, say("layer_delete", layer));
    row.slide.hidden = layer.mode === "erase";
    row.range.setAttribute("aria-label", say("layer_strength", layer));
    setRange(row.range, layer.strength);
    row.output.textContent = `${Math.round(100 * layer.strength)}%`;
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
      if (layerOf(store.painting, id)) continue;
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
}
