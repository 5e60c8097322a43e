// The picture and painting on it.

const CROSSFADE_MS = 140;
const MIN_STEP = 0.002; // of the picture's width: a pointer that moved less has not moved
const KEY_STEP = 0.02;
const REST_MS = 150; // a pointer that has not moved for so long rests

function makePicture(canvas) {
  const context = canvas.getContext("2d", { alpha: false });
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let last = null;
  let turn = 0;

  /** As many pixels as the screen shows: scaled once a picture, not whenever something moves above it. */
  function fit() {
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side || canvas.width === side) return;
    canvas.width = canvas.height = side;
    if (last) paint(last, null, 1);
  }
  new ResizeObserver(fit).observe(canvas);

  function paint(image, from, share) {
    context.imageSmoothingQuality = "high"; // which a canvas forgets when its size is set
    if (from) {
      context.globalAlpha = 1;
      context.drawImage(from, 0, 0, canvas.width, canvas.height);
    }
    context.globalAlpha = share;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }

  return {
    /** Shows the picture at `url`: at once, or blended in from the one before. */
    async show(url, blend = true) {
      const image = new Image();
      image.src = url;
      await image.decode();
      const mine = ++turn;
      const from = last;
      last = image;
      const start = performance.now();
      const step = (now) => {
        if (mine !== turn) return;
        const share = Math.min(1, Math.max(0, now - start) / CROSSFADE_MS);
        paint(image, from, share);
        if (share < 1) requestAnimationFrame(step);
      };
      if (blend && from && !calm.matches && document.visibilityState === "visible") step(start);
      else paint(image, null, 1);
    },
    /** The picture's colours on the masks' raster: RGBA. */
    pixels() {
      const context = new OffscreenCanvas(MASK, MASK).getContext("2d", { willReadFrequently: true });
      context.imageSmoothingQuality = "high";
      if (last) context.drawImage(last, 0, 0, MASK, MASK);
      return context.getImageData(0, 0, MASK, MASK).data;
    },
  };
}

/** Turns the pointer on `easel` into layers of the store. `onPaint` is called whenever the painting has changed.
 *  `onMask(layer)` shows where a layer is while it is moved; `isLocked(layer)` says so in words where one is;
 *  `gridOf(brush)` is the grid that a brush acts on; `pixels()` are the picture's colours.
 *  While the tool is to inspect, `onInspect(x, y, pressed)` is told the place instead. */
function makeStage({ easel, store, overlay, frame, view, pixels, gridOf, onPaint, onRefuse, onInspect, onMask, isLocked }) {
  let stroke = null; // {pointer, drawn, last, shape, rub, id, base}, or of the move tool {pointer, from, to, handle, id, base}
  let ahead = false; // whether the stroke is longer than what of it is in the painting
  let moved = 0; // when the stroke last grew
  let resting = 0;
  let keyPoint = { x: 0.5, y: 0.5 };
  let keyed = true; // whether the brush is moved by keys

  function pointOf(event) {
    const point = view.pointOf(event);
    if (event.pointerType === "pen") point.press = event.pressure;
    if (event.shiftKey) point.square = true;
    return point;
  }

  /** The layer that a stroke goes to: the active one if it is painted with the same brush, else a new one on top. */
  function target() {
    const { brush, mode, strength } = store.tool;
    const active = store.active;
    const same = active && sameBrush(active.brush, brush) && active.mode === mode && active.visible && !active.locked;
    if (same && (mode === "erase" || active.strength === strength)) return active;
    const layer = makeLayer({ brush, mode, strength: mode === "erase" ? 1 : strength });
    store.activeId = layer.id;
    store.preview({ ...store.painting, layers: [...store.painting.layers, layer] });
    return layer;
  }

  /** What the tool in hand draws from a point on. */
  function drawnFrom(point) {
    const { shape, size, hardness, tolerance } = store.tool;
    if (shape === "rect") return makeRect(point);
    if (shape === "ellipse") return makeEllipse(point);
    if (shape === "lasso") return makeLasso(point);
    if (shape === "flood") return makeFlood(point, pixels(), tolerance);
    return makeStroke(point, size, hardness);
  }

  function begin(point, pointer, pointerType = "mouse") {
    const { rub, move, brush, size, shape } = store.tool;
    const active = store.active;
    if (rub || move ? !active : !brush) {
      onRefuse();
      return;
    }
    if ((rub || move) && isLocked(active)) return;
    if (move) {
      const handle = frame.at(point, pointerType, widthOf());
      stroke = { pointer, from: point, to: point, handle, box: boxOf(active.mask), id: active.id, base: active.mask };
      onMask(active);
      return;
    }
    const layer = rub ? active : target();
    stroke = { pointer, drawn: drawnFrom(point), last: point, shape, rub, id: layer.id, base: layer.mask };
    const colour = rub ? "#ffffff" : colourOf(layer.brush);
    if (shape === "brush") overlay.begin(point, size, colour);
    else overlay.beginShape(colour);
    grown();
  }

  /** Makes the topmost layer that is seen at a place the active one, and takes its brush in hand. */
  function pick({ x, y }) {
    const at = MASK * Math.min(MASK - 1, Math.floor(y * MASK)) + Math.min(MASK - 1, Math.floor(x * MASK));
    const layer = [...store.painting.layers].reverse().find(({ visible, mask }) => visible && mask.data[at] > 127);
    if (layer) store.activate(layer.id);
    else onRefuse();
  }

  const colourOf = (brush) => `hsl(${hueOf(brush, store.concepts)} 85% 62%)`;
  const widthOf = () => easel.clientWidth * view.zoom;

  function extend(points) {
    if (!stroke.drawn) {
      stroke.to = points.at(-1);
      grown();
      return;
    }
    const kept = [];
    for (const point of points) {
      if (Math.hypot(point.x - stroke.last.x, point.y - stroke.last.y) < MIN_STEP / view.zoom) continue;
      kept.push((stroke.last = point));
    }
    if (!kept.length) return;
    stroke.drawn.extend(kept);
    if (stroke.shape === "brush") overlay.extend(kept);
    else overlay.outline(stroke.drawn.path());
    grown();
  }

  function grown() {
    ahead = true;
    moved = performance.now();
    clearTimeout(resting);
    resting = setTimeout(onPaint, REST_MS); // what was drafted is finished
    onPaint();
  }

  /** Brings the stroke under the pointer into the painting: when a frame is asked for, not at every move. */
  function settle() {
    if (!stroke || !ahead) return;
    ahead = false;
    const { drawn, rub, id, base, from, to, handle, box } = stroke;
    if (!drawn) {
      const placing = handle ? frame.placing(box, handle, from, to) : { shift: [to.x - from.x, to.y - from.y] };
      show(id, placedMask(base, placing));
      return;
    }
    const covered = fadedMask(drawn.mask(), store.tool.opacity);
    overlay.showCells(covered, gridOf(layerOf(store.painting, id).brush));
    store.preview(withLayer(store.painting, id, { mask: rub ? minusOf(base, covered) : unionOf(base, covered) }));
  }

  /** Shows a layer with another mask. */
  function show(id, mask) {
    store.preview(withLayer(store.painting, id, { mask }));
    onMask(layerOf(store.painting, id));
  }

  function end() {
    if (!stroke) return;
    settle();
    clearTimeout(resting);
    stroke = null;
    overlay.endShape();
    overlay.showCells(null);
    store.commit();
    onPaint();
  }

  /** Takes the stroke under the pointer back; says whether there was one. */
  function cancel() {
    if (!stroke) return false;
    clearTimeout(resting);
    stroke = null;
    ahead = false;
    overlay.forget();
    overlay.showCells(null);
    store.revert();
    onPaint();
    return true;
  }

  /** Shows where the brush is, and over a handle what it would do. */
  function follow(event) {
    const { size, rub, move, shape } = store.tool;
    if (move) {
      const handle = stroke ? stroke.handle : frame.at(pointOf(event), event.pointerType, widthOf());
      easel.style.cursor = handle ? frame.cursorOf(handle) : "";
      overlay.moveCursor(null);
      return;
    }
    easel.style.cursor = "";
    const seen = shape === "brush" && (event.pointerType !== "touch" || stroke);
    overlay.moveCursor(seen ? { ...pointOf(event), diameter: size, dashed: rub } : null);
  }

  easel.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary || event.target.closest("button")) return;
    if (store.tool.inspect) {
      const { x, y } = pointOf(event);
      onInspect(x, y, true);
      return;
    }
    if (event.altKey) {
      pick(pointOf(event));
      return;
    }
    end(); // of what was begun by keys
    easel.setPointerCapture(event.pointerId);
    begin(pointOf(event), event.pointerId, event.pointerType);
    follow(event);
  });
  easel.addEventListener("pointermove", (event) => {
    keyed = false;
    if (store.tool.inspect) {
      const { x, y } = pointOf(event);
      overlay.moveCursor(null);
      onInspect(x, y, event.buttons > 0);
      return;
    }
    follow(event);
    if (stroke?.pointer !== event.pointerId) return;
    const events = event.getCoalescedEvents?.() ?? [];
    extend((events.length ? events : [event]).map(pointOf));
  });
  easel.addEventListener("pointerup", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    const { press, ...point } = pointOf(event);
    extend([press === undefined ? point : { ...point, press: stroke.last?.press ?? press }]); // a pen that is lifted presses nothing
    end();
    if (event.pointerType === "touch") overlay.moveCursor(null);
  });
  easel.addEventListener("pointercancel", (event) => {
    if (stroke?.pointer === event.pointerId) cancel();
    overlay.moveCursor(null);
  });
  easel.addEventListener("pointerleave", () => {
    if (!stroke) overlay.moveCursor(null);
  });
  easel.addEventListener("blur", () => overlay.moveCursor(null));

  /** Space by keys: a dab, a filled place; or the first corner of a shape, and at the second press its last one. */
  function press() {
    if (stroke) {
      end();
      return;
    }
    begin(keyPoint, null);
    if (store.tool.shape === "brush" || store.tool.shape === "flood") end();
  }

  easel.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.target !== easel || event.ctrlKey || event.metaKey || event.altKey || (!move && event.key !== " ")) return;
    event.preventDefault();
    if (!move) return;
    if (store.tool.move) {
      if (!store.active) onRefuse();
      else if (!isLocked(store.active)) {
        show(store.activeId, placedMask(store.active.mask, { shift: [move[0] / MASK, move[1] / MASK] }));
        store.commit();
        onPaint();
      }
      return;
    }
    keyed = true;
    const within = (value) => Math.min(1, Math.max(0, value));
    keyPoint = { x: within(keyPoint.x + KEY_STEP * move[0]), y: within(keyPoint.y + KEY_STEP * move[1]) };
    if (stroke?.pointer === null) extend([keyPoint]);
    if (store.tool.inspect) onInspect(keyPoint.x, keyPoint.y, true);
    cursor();
  });
  easel.addEventListener("keyup", (event) => {
    if (event.key !== " " || event.target !== easel || !keyed || view.panned || store.tool.move) return;
    if (store.tool.inspect) onInspect(keyPoint.x, keyPoint.y, true);
    else press();
    cursor();
  });

  function cursor() {
    const { size, rub, shape } = store.tool;
    overlay.moveCursor({ ...keyPoint, diameter: shape === "brush" ? size : 0, dashed: rub });
  }

  return {
    cancel,
    settle,
    colourOf,
    /** Whether a stroke of the brush, a shape or a move is under way. */
    get painting() {
      return stroke !== null;
    },
    /** Whether the pointer paints and moves: drafts will do. */
    get hurried() {
      return stroke !== null && performance.now() - moved < REST_MS;
    },
  };
}
