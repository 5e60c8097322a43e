// The map of all features, in a dialog over the page: found by place or by name, taken as a brush.

const MAP_WHEEL = 0.0016;
const MAP_PAN = 64;

/** `onPick(brush)` takes a feature as a brush; `onTrouble(text)` says why there is no map. */
function makeMap({ dialog, atlas, store, onPick, onTrouble }) {
  const find = (selector) => dialog.querySelector(selector);
  const canvas = find("canvas");
  const search = find("input");
  const tabs = find(".fb-blocks");
  const card = find(".fb-card");
  const mapView = makeMapView(canvas, atlas);
  const fingers = new Map();
  let travelled = 0; // how far the pointer has gone since it went down: a click does not travel

  /** The labels that a query finds, by their numbers: by themselves or as a concept's name with its synonyms. */
  function found(block, query) {
    const concepts = new Map(store.concepts.map((concept) => [concept.name, concept]));
    const answers = (label) => matchOf(concepts.get(label) ?? { name: label, synonyms: [] }, query).score > 0;
    return [...block.labels.keys()].filter((i) => block.labels[i] && answers(block.labels[i]));
  }

  function look() {
    const query = search.value.trim().toLowerCase();
    const labels = query ? found(mapView.block, query) : null;
    mapView.light(labels);
    choose(-1);
    const count = labels
      ? mapView.block.label.reduce((sum, label) => sum + labels.includes(label), 0)
      : mapView.block.count;
    const key = query ? (count ? "map_found" : "map_none") : "map_count";
    find(".fb-found").textContent = TEXT[key].replace("{count}", count.toLocaleString()).replace("{query}", search.value.trim());
  }

  async function show(name) {
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.block === name));
    mapView.show(atlas.blocks.get(name));
    look();
    await atlas.loadIcons(name);
    mapView.draw();
  }

  function choose(feature) {
    mapView.choose(feature);
    card.hidden = feature < 0;
    if (feature < 0) return;
    const brush = featureBrush(mapView.block.block, feature);
    const score = atlas.scoreOf(brush);
    card.querySelector(".fb-pic")?.replaceWith(atlas.iconOf(brush));
    card.querySelector("b").textContent = titled(atlas.labelOf(brush) || TEXT.feature_unnamed);
    card.querySelector("small").textContent = `${brush.block} · ${feature}`;
    card.querySelector("i").textContent = TEXT.map_score.replace("{percent}", Math.round(100 * score));
  }

  function pick(feature = mapView.chosen) {
    if (feature < 0) return;
    dialog.close();
    onPick(featureBrush(mapView.block.block, feature));
  }

  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = pointOf(event);
    mapView.zoomAt(Math.exp(-event.deltaY * MAP_WHEEL * (event.ctrlKey ? 6 : 1)), x, y);
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (!fingers.size) travelled = 0;
    fingers.set(event.pointerId, pointOf(event));
    if (fingers.size > 1) travelled = Infinity;
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = pointOf(event);
    const before = fingers.get(event.pointerId);
    if (!before) {
      const under = mapView.at(point.x, point.y);
      canvas.classList.toggle("fb-over", under >= 0);
      if (under >= 0) choose(under);
      return;
    }
    travelled += Math.hypot(point.x - before.x, point.y - before.y);
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    fingers.set(event.pointerId, point);
    if (!other) {
      if (travelled > 4) mapView.move(point.x - before.x, point.y - before.y);
      return;
    }
    const apart = (place) => Math.hypot(place.x - other.x, place.y - other.y);
    const middle = { x: (point.x + other.x) / 2, y: (point.y + other.y) / 2 };
    mapView.zoomAt(apart(point) / Math.max(1, apart(before)), middle.x, middle.y);
    mapView.move((point.x - before.x) / 2, (point.y - before.y) / 2);
  });
  const lift = (event) => fingers.delete(event.pointerId);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerup", (event) => {
    if (!lift(event) || travelled > 4) return;
    const { x, y } = pointOf(event);
    const feature = mapView.at(x, y);
    if (event.pointerType === "touch") choose(feature); // a finger hides what it points at: look first, then take it
    else pick(feature);
  });

  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const act = {
      "+": () => mapView.zoomAt(1.5),
      "=": () => mapView.zoomAt(1.5),
      "-": () => mapView.zoomAt(1 / 1.5),
      0: mapView.fit,
      Enter: () => pick(),
      " ": () => pick(),
    }[event.key];
    if ((!step && !act) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (act) act();
    else if (event.shiftKey) mapView.move(-MAP_PAN * step[0], -MAP_PAN * step[1]);
    else {
      choose(mapView.beside(...step));
      if (mapView.chosen >= 0) mapView.reveal(mapView.chosen);
    }
  });

  const buttons = { in: () => mapView.zoomAt(1.5), out: () => mapView.zoomAt(1 / 1.5), fit: mapView.fit, close: () => dialog.close() };
  for (const [name, act] of Object.entries(buttons)) find(`[data-map=${name}]`).addEventListener("click", act);
  card.querySelector("button").addEventListener("click", () => pick());
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // a search field would only empty itself
    dialog.close();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the panel
  });
  search.addEventListener("input", look);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    choose(mapView.beside(0, 0));
    if (mapView.chosen >= 0) canvas.focus();
  });
  new ResizeObserver(() => mapView.draw()).observe(canvas);

  return {
    /** Opens it, with a search if one is given. */
    async open(query = "") {
      try {
        await atlas.load();
      } catch (error) {
        onTrouble(TEXT.error_atlas.replace("{why}", error.message));
        return;
      }
      if (!atlas.blocks.size) {
        onTrouble(TEXT.map_empty);
        return;
      }
      if (!tabs.childElementCount) {
        for (const name of atlas.blocks.keys()) {
          const tab = document.createElement("button");
          tab.type = "button";
          tab.dataset.block = tab.textContent = name;
          tab.addEventListener("click", () => show(name));
          tabs.append(tab);
        }
      }
      search.value = query;
      if (!dialog.open) dialog.showModal();
      canvas.focus();
      mapView.fit();
      await show(mapView.block?.block ?? tabs.firstChild.dataset.block);
    },
    /** Where a feature of the shown block is on the screen, for whoever drives the page by script. */
    spot(feature) {
      const box = canvas.getBoundingClientRect();
      const { x, y } = mapView.toScreen(feature);
      return { x: box.left + x, y: box.top + y };
    },
  };
}
