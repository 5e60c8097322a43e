// How near the picture is looked at: zoom by wheel, pinch and keys; move with space, the middle button or two fingers.

const ZOOM_MAX = 12;
const ZOOM_KEY = 1.5;
const WHEEL_ZOOM = 0.0018; // per pixel of the wheel's way
const PINCH_ZOOM = 0.01; // per pixel of what a trackpad calls a wheel when it is pinched

/** Zooms the easel's `.fb-view`. `onGrab()` is told when two fingers or a pan take what the pointer began. */
function makeView({ easel, onGrab, onChange }) {
  const plane = easel.querySelector(".fb-view");
  const chip = easel.querySelector(".fb-zoom");
  let zoom = 1;
  let [left, top] = [0, 0]; // where the picture's corner is, in widths of the easel: from 1 - zoom to 0
  let space = false; // whether the bar is down
  let panned = false; // whether it was used to pan since it went down
  let grip = null; // the pointer that pans, and where it was: {pointer, x, y}
  const fingers = new Map(); // touches on the easel, by pointer
  let pinching = false;

  function put() {
    const within = (place) => Math.min(0, Math.max(1 - zoom, place));
    [left, top] = [within(left), within(top)];
    plane.style.transform = zoom === 1 ? "" : `translate(${100 * left}%, ${100 * top}%) scale(${zoom})`;
    easel.style.setProperty("--zoom", zoom);
    chip.hidden = zoom === 1;
    chip.querySelector("span").textContent = `${Math.round(100 * zoom)}%`;
    onChange();
  }

  /** Zooms by a factor; what is under the point of the screen stays there. */
  function zoomBy(factor, x, y) {
    const box = easel.getBoundingClientRect();
    const [px, py] = [(x - box.left) / box.width, (y - box.top) / box.height];
    const next = Math.min(ZOOM_MAX, Math.max(1, zoom * factor));
    const near = Math.abs(next - 1) < 0.02 ? 1 : next;
    [left, top] = [px - ((px - left) * near) / zoom, py - ((py - top) * near) / zoom];
    zoom = near;
    put();
  }

  function panBy(dx, dy) {
    const { width, height } = easel.getBoundingClientRect();
    left += dx / width;
    top += dy / height;
    put();
  }

  /** Zooms about the middle. */
  function step(factor) {
    const box = easel.getBoundingClientRect();
    zoomBy(factor, box.left + box.width / 2, box.top + box.height / 2);
  }

  function fit() {
    zoom = 1;
    put();
  }

  const ours = (event) => event.stopImmediatePropagation();

  easel.addEventListener("wheel", (event) => {
    const factor = Math.exp(-event.deltaY * (event.ctrlKey ? PINCH_ZOOM : WHEEL_ZOOM));
    if (zoom === 1 && factor < 1 && !event.ctrlKey) return; // the page may scroll
    event.preventDefault();
    zoomBy(factor, event.clientX, event.clientY);
  }, { passive: false });

  easel.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button, select, .fb-divider")) return;
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, event);
      if (fingers.size < 2) return;
      if (!pinching) onGrab();
      pinching = true;
      ours(event);
      return;
    }
    if (event.button !== 1 && !(space && event.button === 0)) return;
    event.preventDefault();
    ours(event);
    onGrab();
    panned = true;
    grip = { pointer: event.pointerId, x: event.clientX, y: event.clientY };
    easel.setPointerCapture(event.pointerId);
    easel.dataset.pan = "going";
  }, true);

  easel.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId)) {
      const before = [...fingers.values()];
      fingers.set(event.pointerId, event);
      if (!pinching) return;
      ours(event);
      if (before.length !== 2) return;
      const after = [...fingers.values()];
      const between = ([a, b]) => ({ x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2, span: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) });
      const [was, is] = [between(before), between(after)];
      zoomBy(is.span / Math.max(was.span, 1), was.x, was.y);
      panBy(is.x - was.x, is.y - was.y);
      return;
    }
    if (grip?.pointer !== event.pointerId) return;
    ours(event);
    panBy(event.clientX - grip.x, event.clientY - grip.y);
    grip = { pointer: event.pointerId, x: event.clientX, y: event.clientY };
  }, true);

  function release(event) {
    if (pinching) ours(event);
    if (fingers.delete(event.pointerId) && !fingers.size) pinching = false;
    if (grip?.pointer !== event.pointerId) return;
    ours(event);
    grip = null;
    easel.dataset.pan = space ? "ready" : "";
  }
  for (const kind of ["pointerup", "pointercancel"]) easel.addEventListener(kind, release, true);

  function onKey(event) {
    if (!easel.isConnected) {
      document.removeEventListener("keydown", onKey);
      document.removeEventListener("keyup", onKey);
      return;
    }
    if (event.key !== " ") return;
    const elsewhere = event.target !== easel && event.target !== document.body;
    const down = event.type === "keydown" && !elsewhere;
    if (down && !space) panned = false;
    if (down && event.target === document.body) event.preventDefault(); // no scrolling
    space = down;
    if (!grip) easel.dataset.pan = down ? "ready" : "";
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", onKey);
  chip.addEventListener("click", fit);

  return {
    fit,
    in: () => step(ZOOM_KEY),
    out: () => step(1 / ZOOM_KEY),
    /** The place in the picture where a pointer is: fractions of it. */
    pointOf(event) {
      const box = plane.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    },
    get zoom() {
      return zoom;
    },
    /** Whether the space bar that is down, or was just let go, moved the picture. */
    get panned() {
      return panned;
    },
  };
}
