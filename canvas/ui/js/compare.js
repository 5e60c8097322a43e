// Before and after on one picture, with a divider to drag between them.

const DIVIDER_STEP = 2;

/** Before is the picture without layers, or that of a snapshot. */
function makeCompare({ root, store, aside, status }) {
  const find = (selector) => root.querySelector(selector);
  const easel = find(".fb-easel");
  const before = find(".fb-before");
  const divider = find(".fb-divider");
  const bar = find(".fb-compare");
  const choice = bar.querySelector("select");
  const toggles = root.querySelectorAll("[data-do=compare]");
  let snapshots = [];
  let on = false;
  let at = 50; // where the divider stands, in percent
  let wanted = ""; // what `before` is to show, as JSON

  function place(percent) {
    at = Math.min(100, Math.max(0, percent));
    divider.style.left = `${at}%`;
    divider.setAttribute("aria-valuenow", Math.round(at));
    before.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
  }

  async function refresh() {
    if (!on) return;
    const chosen = snapshots.find(({ number }) => String(number) === choice.value);
    const text = chosen?.text ?? (await toJson({ ...store.painting, layers: [] }));
    if (text === wanted) return;
    wanted = text;
    const answer = await aside(await fromJson(text), () => on && wanted === text);
    if (!answer || wanted !== text) return;
    if (answer.error) {
      status.say(TEXT.error_compare.replace("{why}", answer.error));
      open(false);
      return;
    }
    before.src = answer.image;
    await before.decode().catch(() => {}); // another one is on its way
    before.hidden = !on;
  }

  function open(isOpen) {
    const changed = on !== isOpen;
    on = isOpen;
    bar.hidden = divider.hidden = !on;
    for (const toggle of toggles) toggle.setAttribute("aria-pressed", String(on));
    if (!on) {
      if (bar.contains(document.activeElement) || divider === document.activeElement) easel.focus();
      before.hidden = true;
      wanted = "";
      return changed;
    }
    place(50);
    refresh();
    divider.focus();
    return changed;
  }

  const toggle = () => open(!on);
  for (const button of toggles) button.addEventListener("click", toggle);
  bar.querySelector("button").addEventListener("click", () => open(false));
  choice.addEventListener("change", refresh);
  for (const element of [bar, divider]) element.addEventListener("pointerdown", (event) => event.stopPropagation());

  divider.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    divider.focus();
    divider.setPointerCapture(event.pointerId);
  });
  divider.addEventListener("pointermove", (event) => {
    event.stopPropagation(); // no brush while it is dragged
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = easel.getBoundingClientRect();
    place((100 * (event.clientX - box.left)) / box.width);
  });
  divider.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -DIVIDER_STEP, ArrowRight: DIVIDER_STEP, Home: -100, End: 100 }[event.key];
    if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    place(at + by);
  });
  store.listen((what) => what === "painting" && refresh());

  return {
    toggle,
    /** Ends it; says whether there was something to end. */
    close: () => open(false),
    /** There are other snapshots to choose from. */
    offer(kept) {
      const chosen = choice.value;
      snapshots = kept;
      const named = [...kept].reverse().map(({ number }) => new Option(TEXT.compare_snapshot.replace("{number}", number), number));
      choice.replaceChildren(new Option(TEXT.compare_unpainted, ""), ...named);
      if (kept.some(({ number }) => String(number) === chosen)) choice.value = chosen;
      refresh();
    },
  };
}
