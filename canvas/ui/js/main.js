// Puts the page together when Gradio has put its elements on the screen.

const KEEP = "featurebrush:painting";
const NARROW = "(max-width: 940px)";

async function startPage(root) {
  const find = (selector) => root.querySelector(selector);
  const session = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  const narrow = matchMedia(NARROW);
  const fold = () => (find(".fb-side details").open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();

  const status = makeStatus(find);
  const opened = await open(session, status);
  const painting = await fromJson(opened.painting);
  const { strength, size } = opened;
  const tool = {
    brush: null, mode: "add", rub: false, move: false, inspect: false, shape: "brush", strength, size, hardness: 1, opacity: 1, tolerance: 0.12,
    seedLocked: false,
  };
  const store = makeStore(painting, tool);
  store.concepts = opened.concepts;

  const picture = makePicture(find(".fb-picture"));
  const overlay = makeOverlay(find(".fb-overlay"), find(".fb-mask"), find(".fb-ring"));
  const frame = makeFrame(find(".fb-overlay"));
  const view = makeView({ easel: find(".fb-easel"), onGrab: () => stage.cancel(), onChange: showFrame });
  const stage = makeStage({
    easel: find(".fb-easel"), store, overlay, frame, view, pixels: picture.pixels, gridOf, onPaint: change, onRefuse: refuse,
    onInspect: (x, y, pressed) => inspect.at(x, y, pressed), onMask: (layer) => peek(layer.id),
    isLocked: (layer) => layers.refused(layer),
  });
  let shown = 0;
  const net = makeNet({
    server,
    session,
    current() {
      stage.settle();
      return store.painting;
    },
    hurried: () => stage.hurried,
    onSent(number) {
      overlay.seal(number, stage.painting);
      mark("sent", number);
    },
    onStatus: status.show,
    onRefused: overlay.acknowledge,
    async onFrame({ number, image }) {
      await picture.show(image, !stage.painting); // under the brush every frame is the next one's beginning
      mark("shown", number);
      overlay.acknowledge(number);
      shown = number;
    },
  });

  const icons = opened.icons && URL.createObjectURL(await (await fetch(opened.icons)).blob());
  const atlas = makeAtlas({ server, onKnown: named });
  const map = makeMap({ dialog: find("dialog.fb-map"), atlas, store, onPick: hold, onTrouble: status.say });
  const palette = makePalette({
    root: find(".fb-palette"), store, icons, iconsARow: opened.icons_a_row, atlas, onPick: hold, onMap: map.open,
  });
  const hand = makeHand({ root: find(".fb-hand"), store, atlas, palette });
  const inspect = makeInspect({
    root, easel: find(".fb-easel"), server, session, store, atlas, onPick: hold,
    paintingJson: () => toJson(store.painting),
  });
  const tools = makeTools({ root: find(".fb-stage"), store });
  const settings = makeSettings({ root: find(".fb-side"), store, limits: opened.limits, onChange: change });
  const masks = makeMasks({ root, store, colourOf: stage.colourOf });
  const layers = makeLayers({
    root: find(".fb-side"), store, iconOf: palette.iconOf, colourOf: stage.colourOf, onChange: change, onHover: peek,
    nameOf, say: status.say,
  });

  /** The features' labels are there: what shows a feature calls it by its name from now on. */
  function named() {
    palette.rearrange();
    store.setTool({});
  }

  /** What to call a brush: a feature by its label, where that is known. */
  function nameOf(brush) {
    const label = brush?.feature === undefined ? "" : atlas.labelOf(brush);
    return label ? `${titled(label)} ${brush.feature}` : brushName(brush);
  }

  /** Takes a brush in hand: from now on strokes make a layer of it, unless one is active already. */
  function hold(brush) {
    if (store.active && !sameBrush(store.active.brush, brush)) store.activeId = null;
    store.setTool({ brush, rub: false, inspect: false, move: false });
    palette.remember(brush);
  }

  /** The cells, [rows, columns], of the block that a brush acts on. */
  function gridOf(brush) {
    const block = brush.block ?? store.concepts.find(({ name }) => name === brush.concept)?.block;
    return opened.grids[block];
  }

  /** The frame with its handles, around what the move tool holds. */
  function showFrame() {
    const held = store.tool.move && store.active;
    frame.show(held ? held.mask : null, find(".fb-easel").clientWidth * view.zoom);
  }

  function change() {
    net.request();
  }

  function refuse() {
    const wanted = store.tool.rub || store.tool.move ? find(".fb-guide") : find(".fb-concepts");
    wanted.classList.remove("fb-nudge");
    void wanted.offsetWidth; // restarts the animation
    wanted.classList.add("fb-nudge");
  }

  function peek(id) {
    const layer = layerOf(store.painting, id) ?? (store.tool.rub || store.tool.move ? store.active : null);
    overlay.showMask(layer?.mask ?? null, layer ? stage.colourOf(layer.brush) : "");
  }

  async function keep() {
    const text = await toJson(store.painting);
    try {
      localStorage.setItem(KEEP, text);
    } catch {
      // a browser without storage still paints
    }
  }

  let keeping = 0;
  function refresh(what) {
    find("[data-do=undo]").disabled = !store.canUndo;
    find("[data-do=redo]").disabled = !store.canRedo;
    find("[data-do=clear]").disabled = store.painting.layers.length === 0;
    root.dataset.shape = store.tool.shape;
    showFrame();
    root.dataset.hand = store.tool.inspect ? "inspect" : store.tool.move ? "move" : store.tool.rub ? "rub" : store.tool.brush ? "paint" : "none";
    guide();
    if (store.tool.rub || store.tool.move || what === "tool") peek(null);
    clearTimeout(keeping);
    keeping = setTimeout(keep, 400);
  }

  function guide() {
    const { brush, mode, rub, move, shape, inspect: looking } = store.tool;
    const paint = { lasso: TEXT.guide_lasso, flood: TEXT.guide_flood, rect: TEXT.guide_shape, ellipse: TEXT.guide_shape }[shape] ?? TEXT.guide_paint;
    const { active } = store;
    let text = narrow.matches ? TEXT.hint_narrow : TEXT.hint;
    if (looking) text = TEXT.guide_inspect;
    else if (move) text = active ? TEXT.guide_move : TEXT.guide_move_none;
    else if (rub) text = active ? TEXT.guide_rub : TEXT.guide_rub_none;
    else if (brush) text = mode === "erase" ? TEXT.guide_remove : paint;
    const name = nameOf(rub || move ? active?.brush : brush);
    find(".fb-guide").textContent = text.replace("{name}", name.toLowerCase());
  }

  function travel(step) {
    if (stage.cancel()) return;
    step();
    change();
  }

  function clear() {
    if (!store.painting.layers.length) return;
    store.commit({ ...store.painting, layers: [] });
    change();
  }

  /** Shows the painting of a JSON text, as one step of the history. */
  async function load(text) {
    stage.cancel();
    store.commit(await fromJson(text));
    change();
  }

  const aside = makeAside({ server, session, idle: net.idle });
  const compare = makeCompare({ root, store, aside, status });
  const snapshots = makeSnapshots({ root, store, aside, status, onOpen: load, onChange: compare.offer });
  const variations = makeVariations({ root, store, aside, status, onSeed: settings.setSeed });
  const files = makeFiles({ root, server, session, store, status, onOpen: load });
  find("[data-do=map]").addEventListener("click", () => map.open());
  const actions = { undo: () => travel(store.undo), redo: () => travel(store.redo), clear };
  for (const [name, act] of Object.entries(actions)) find(`[data-do=${name}]`).addEventListener("click", act);

  const keys = makeKeys({
    root,
    actions: {
      key_paint: () => tools.choose("add"),
      key_remove: () => tools.choose("erase"),
      key_rub: () => tools.choose("rub"),
      key_move: () => tools.choose("move"),
      key_inspect: () => tools.choose(store.tool.inspect ? store.tool.mode : "inspect"),
      key_smaller: () => tools.resize(-1),
      key_larger: () => tools.resize(1),
      key_softer: () => tools.harden(-1),
      key_harder: () => tools.harden(1),
      key_brush: () => tools.draw("brush"),
      key_rect: () => tools.draw("rect"),
      key_ellipse: () => tools.draw("ellipse"),
      key_lasso: () => tools.draw("lasso"),
      key_flood: () => tools.draw("flood"),
      key_zoom_in: view.in,
      key_zoom_out: view.out,
      key_zoom_fit: view.fit,
      key_masks: masks.hold,
      key_variations: variations.open,
      key_flip_x: layers.ofActive("flipX"),
      key_flip_y: layers.ofActive("flipY"),
      key_cancel: () => stage.cancel() || compare.close() || inspect.release(),
      key_compare: compare.toggle,
      key_snapshot: snapshots.take,
      key_roll: settings.roll,
      key_search: () => palette.search.focus(),
      key_map: () => map.open(),
      key_star: hand.star,
      key_raise: layers.ofActive("raise"),
      key_lower: layers.ofActive("lower"),
      key_duplicate: layers.ofActive("duplicate"),
      key_merge: layers.ofActive("merge"),
      key_hide: layers.ofActive("hide"),
      key_lock: layers.ofActive("lock"),
      key_rename: layers.ofActive("rename"),
      key_delete: layers.ofActive("remove"),
      key_undo: actions.undo,
      key_redo: actions.redo,
      key_open: files.open,
      key_save: files.save,
      key_export: files.download,
      key_gallery: files.gallery,
    },
  });
  find("[data-do=help]").addEventListener("click", keys.help);
  narrow.addEventListener("change", guide);

  store.listen(refresh);
  refresh();
  if (document.querySelector("[data-feature]") || painting.layers.some((layer) => layer.brush.feature !== undefined)) {
    atlas.load().catch(() => {}); // without it they keep their numbers
  }
  if (opened.restored) status.say(TEXT.restored, 4000);
  if (opened.lost) status.say(TEXT.not_restored.replace("{why}", opened.lost));
  if (opened.error) status.show("error", opened.error);
  else {
    await picture.show(opened.image);
    status.show("ready", { ms: opened.ms, fps: 0 });
  }
  await files.openLink();
  root.dataset.ready = "yes";

  window.featurebrush = {
    /** The painting now; masks are the page's own rasters. */
    painting: () => store.painting,
    /** The painting's JSON, as Python reads it. */
    json: () => toJson(store.painting),
    load,
    pick: palette.pick,
    /** The raster of what is drawn from a point `[x, y]` through others: `makeStroke`'s, `makeRect`'s and so on. */
    drawn(make, [first, ...rest], ...how) {
      const drawn = { makeStroke, makeRect, makeEllipse, makeLasso }[make](first, ...how);
      if (rest.length) drawn.extend(rest);
      return [...drawn.mask().data];
    },
    /** The mask of a layer, placed elsewhere: see `placedMask`. */
    placed: (place, placing) => [...placedMask(store.painting.layers[place].mask, placing).data],
    /** How near the picture is looked at. */
    zoom: () => view.zoom,
    /** Where a feature stands in the open map, on the screen. */
    mapSpot: map.spot,
    tool: () => ({ ...store.tool, active: store.activeId }),
    /** Whether the picture has not yet followed the painting. */
    busy: () => net.busy,
    /** How many frames were asked for, and which one is on the screen. */
    frames: () => ({ asked: net.number, shown }),
  };
}

/** Tells whoever observes the browser's performance timeline what became of frame `number`, and keeps nothing. */
function mark(what, number) {
  const { name } = performance.mark(`featurebrush:${what}`, { detail: number });
  performance.clearMarks(name);
}

/** The first answer of the server: asked for until it comes. */
async function open(session, status) {
  let painting = null;
  try {
    painting = localStorage.getItem(KEEP);
  } catch {
    // a browser without storage opens the first painting
  }
  for (;;) {
    const answer = await answerOf(server.start({ session, number: 0, painting }));
    if (answer) return answer;
    status.show("reconnecting");
    await pause(1500);
  }
}

/** The line that says what is going on, and the note over the picture where something went wrong. */
function makeStatus(find) {
  const pill = find(".fb-status");
  const toast = find(".fb-toast");
  let leaving = 0;
  let about = "";
  toast.querySelector("button").addEventListener("click", () => say(""));

  function say(text, forMs = 0) {
    clearTimeout(leaving);
    about = "";
    toast.querySelector("span").textContent = titled(text);
    toast.hidden = !text;
    if (forMs) leaving = setTimeout(() => say(""), forMs);
  }

  function show(state, detail) {
    const was = pill.dataset.state;
    pill.dataset.state = state;
    find(".fb-easel").dataset.state = state;
    const words = pill.querySelector("span");
    if (state === "reconnecting" && about !== "connection") {
      say(TEXT.reconnecting);
      about = "connection";
    } else if (state === "error") {
      say(detail);
      about = "error";
    } else if (state === "ready" && about) say("");
    if (state === "ready") {
      const key = detail.fps ? "status_fps" : detail.ms ? "status_ms" : "status_ready";
      words.textContent = TEXT[key].replace("{fps}", detail.fps.toFixed(1)).replace("{ms}", detail.ms);
    } else if (state === "waiting") {
      words.textContent = (detail.ahead === 1 ? TEXT.status_waiting_one : TEXT.status_waiting).replace("{ahead}", detail.ahead);
    } else if (state !== "working" || was === "waiting" || !/\d/.test(words.textContent)) {
      words.textContent = TEXT[`status_${state}`];
    }
  }

  return { show, say };
}

startPage(element.querySelector(".fb"));
