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
  };
}

/** Turns the pointer on `easel` into layers of the store. `onPaint` is called whenever the painting has changed.
 *  `onMask(layer)` shows where a layer is while it is moved; `isLocked(layer)` says so in words where one is.
 *  While the tool is to inspect, `onInspect(x, y, pressed)` is told the place instead. */
function makeStage({ easel, store, overlay, onPaint, onRefuse, onInspect, onMask, isLocked }) {
  let stroke = null; // {pointer, points, drawn, rub, id, base}, or of the move tool {pointer, points, move, id, base}
  let ahead = false; // whether the stroke is longer than what of it is in the painting
  let moved = 0; // when the stroke last grew
  let resting = 0;
  let keyPoint = { x: 0.5, y: 0.5 };

  function pointOf(event) {
    const box = easel.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
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

  function begin(point, pointer) {
    const { rub, move, brush, size, hardness } = store.tool;
    const active = store.active;
    if (rub || move ? !active : !brush) {
      onRefuse();
      return;
    }
    if ((rub || move) && isLocked(active)) return;
    if (move) {
      stroke = { pointer, move: true, points: [point], id: active.id, base: active.mask };
      onMask(active);
      return;
    }
    const layer = rub ? active : target();
    stroke = { pointer, points: [point], drawn: makeStroke(point, size, hardness), rub, id: layer.id, base: layer.mask };
    overlay.begin(point, size, rub ? "#ffffff" : colourOf(layer.brush));
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

  function extend(points) {
    const kept = [];
    let last = stroke.points.at(-1);
    for (const point of points) {
      if (Math.hypot(point.x - last.x, point.y - last.y) < MIN_STEP) continue;
      kept.push((last = point));
    }
    if (!kept.length) return;
    if (stroke.move) {
      stroke.points[1] = kept.at(-1);
      grown();
      return;
    }
    stroke.points.push(...kept);
    stroke.drawn.extend(kept);
    overlay.extend(kept);
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
    const { points, drawn, rub, move, id, base } = stroke;
    if (move) {
      const [from, to] = points;
      nudge(id, base, to.x - from.x, to.y - from.y);
      return;
    }
    const mask = rub ? minusOf(base, drawn.mask()) : unionOf(base, drawn.mask());
    store.preview(withLayer(store.painting, id, { mask }));
  }

  /** Shows a layer's mask moved by fractions of the picture. */
  function nudge(id, base, dx, dy) {
    store.preview(withLayer(store.painting, id, { mask: shiftedMask(base, dx, dy) }));
    onMask(layerOf(store.painting, id));
  }

  function end() {
    if (!stroke) return;
    settle();
    clearTimeout(resting);
    stroke = null;
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
    store.revert();
    onPaint();
    return true;
  }

  function follow(event) {
    const { size, rub, move } = store.tool;
    if (move) {
      overlay.moveCursor(null);
      return;
    }
    const mouse = event && event.pointerType !== "touch";
    overlay.moveCursor(mouse || stroke ? { ...pointOf(event), diameter: size, dashed: rub } : null);
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
    easel.setPointerCapture(event.pointerId);
    begin(pointOf(event), event.pointerId);
    follow(event);
  });
  easel.addEventListener("pointermove", (event) => {
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
    extend([pointOf(event)]);
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

  easel.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.target !== easel || event.ctrlKey || event.metaKey || event.altKey || (!move && event.key !== " ")) return;
    event.preventDefault();
    if (move && store.tool.move) {
      if (!store.active) onRefuse();
      else if (!isLocked(store.active)) {
        nudge(store.activeId, store.active.mask, move[0] / MASK, move[1] / MASK);
        store.commit();
        onPaint();
      }
      return;
    }
    if (move) {
      const within = (value) => Math.min(1, Math.max(0, value));
      keyPoint = { x: within(keyPoint.x + KEY_STEP * move[0]), y: within(keyPoint.y + KEY_STEP * move[1]) };
    } else if (!store.tool.inspect && !store.tool.move) {
      begin(keyPoint, null);
      end();
    }
    if (store.tool.inspect) onInspect(keyPoint.x, keyPoint.y, true);
    overlay.moveCursor({ ...keyPoint, diameter: store.tool.size, dashed: store.tool.rub });
  });

  return {
    cancel,
    settle,
    colourOf,
    get painting() {
      return stroke !== null;
    },
    /** Whether the pointer paints and moves: drafts will do. */
    get hurried() {
      return stroke !== null && performance.now() - moved < REST_MS;
    },
  };
}
