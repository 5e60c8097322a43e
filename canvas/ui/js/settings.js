// The brush's toolbars; the prompt, the seed and what else the model is told.

const TYPING_MS = 500;
const SEED_MAX = 2n ** 63n - 1n;
const SEED_ROLL = 1000000;

/** Moves a slider and tells the style sheet how far it is filled. */
function setRange(range, value) {
  range.value = value;
  const { min, max } = range;
  range.style.setProperty("--fill", `${(100 * (range.value - min)) / (max - min)}%`);
}

function makeTools({ root, store }) {
  const tools = [...root.querySelectorAll("[data-tool]")];
  const shapes = [...root.querySelectorAll("[data-shape]")];
  const range = (name) => root.querySelector(`.fb-tools [data-set=${name}]`);
  const strength = range("strength");

  function choose(tool) {
    const other = { rub: false, inspect: false, move: false };
    store.setTool(tool in other ? { ...other, [tool]: true } : { ...other, mode: tool });
  }

  /** Draws regions another way; with a tool that draws none, paints. */
  function draw(shape) {
    store.setTool({ shape, move: false, inspect: false });
  }

  for (const button of tools) button.addEventListener("click", () => choose(button.dataset.tool));
  for (const button of shapes) button.addEventListener("click", () => draw(button.dataset.shape));
  for (const name of ["size", "hardness", "tolerance", "opacity"]) {
    range(name).addEventListener("input", () => store.setTool({ [name]: Number(range(name).value) / 100 }));
  }
  strength.addEventListener("input", () => store.setTool({ strength: Number(strength.value) }));

  function show(slider, value, percent) {
    setRange(slider, value);
    slider.nextElementSibling.textContent = `${percent}%`;
  }

  function refresh() {
    const { rub, inspect, move, mode, shape, strength: much } = store.tool;
    const held = inspect ? "inspect" : move ? "move" : rub ? "rub" : mode;
    for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === held));
    for (const button of shapes) button.setAttribute("aria-pressed", String(button.dataset.shape === shape && !move && !inspect));
    for (const name of ["size", "hardness", "tolerance", "opacity"]) {
      const percent = Math.round(100 * store.tool[name]);
      show(range(name), percent, percent);
      const { for: only } = range(name).parentElement.dataset;
      range(name).parentElement.hidden = only !== undefined && only !== shape;
    }
    show(strength, much, Math.round(100 * much));
    strength.disabled = rub || mode === "erase";
  }

  store.listen(refresh);
  refresh();
  return {
    choose,
    draw,
    /** A quarter harder or softer. */
    harden: (sign) => store.setTool({ hardness: Math.min(1, Math.max(0, store.tool.hardness + 0.25 * sign)) }),
    /** One notch bigger or smaller. */
    resize(sign) {
      const { value, min, max } = range("size");
      const notch = Math.max(1, Math.round(value / 8));
      store.setTool({ size: Math.min(Number(max), Math.max(Number(min), Number(value) + sign * notch)) / 100 });
    },
  };
}

/** `limits` are the model's defaults and its most steps: {steps, guidance, most_steps}. */
function makeSettings({ root, store, limits, onChange }) {
  const prompt = root.querySelector("[data-set=prompt]");
  const seed = root.querySelector("[data-set=seed]");
  const roll = root.querySelector("[data-do=roll]");
  const lock = root.querySelector("[data-do=lock]");
  let typing = 0;

  function settle() {
    clearTimeout(typing);
    typing = 0;
    store.commit();
  }

  prompt.addEventListener("input", () => {
    store.preview({ ...store.painting, prompt: prompt.value });
    clearTimeout(typing);
    typing = setTimeout(() => {
      settle();
      onChange();
    }, TYPING_MS);
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    settle();
    onChange();
  });
  prompt.addEventListener("blur", () => {
    if (!typing) return;
    settle();
    onChange();
  });

  /** `value`: a whole number of any size. */
  function setSeed(number) {
    const value = String(number < 0n ? 0n : number > SEED_MAX ? SEED_MAX : number);
    if (value !== store.painting.seed) {
      store.commit({ ...store.painting, seed: value });
      onChange();
    }
    refresh();
  }

  seed.addEventListener("change", () => {
    const digits = seed.value.replace(/\D/g, "");
    setSeed(BigInt(digits || store.painting.seed));
  });
  seed.addEventListener("keydown", (event) => {
    if (event.key === "Enter") seed.blur();
    const step = { ArrowUp: 1n, ArrowDown: -1n }[event.key];
    if (!step) return;
    event.preventDefault();
    setSeed(BigInt(store.painting.seed) + step);
  });
  function rollSeed() {
    if (!store.tool.seedLocked) setSeed(BigInt(Math.floor(Math.random() * SEED_ROLL)));
  }

  const sliders = ["steps", "guidance"].map((name) => ({
    name, range: root.querySelector(`[data-set=${name}]`), reset: root.querySelector(`[data-reset=${name}]`),
  }));
  sliders[0].range.max = limits.most_steps;
  for (const { name, range, reset } of sliders) {
    range.addEventListener("input", () => {
      store.preview({ ...store.painting, [name]: Number(range.value) });
      onChange();
    });
    range.addEventListener("change", () => store.commit());
    reset.addEventListener("click", () => {
      store.commit({ ...store.painting, [name]: null });
      onChange();
    });
  }
  const keep = root.querySelector("[data-set=keep]");
  keep.addEventListener("change", () => {
    store.commit({ ...store.painting, keep: keep.checked });
    onChange();
  });

  roll.addEventListener("click", rollSeed);
  lock.addEventListener("click", () => store.setTool({ seedLocked: !store.tool.seedLocked }));

  function refresh() {
    const { painting, tool } = store;
    if (prompt.value !== painting.prompt) prompt.value = painting.prompt;
    seed.value = painting.seed;
    for (const { name, range, reset } of sliders) {
      const value = painting[name] ?? limits[name];
      setRange(range, value);
      range.nextElementSibling.textContent = value;
      reset.style.visibility = painting[name] === null ? "hidden" : "";
    }
    keep.checked = painting.keep;
    seed.readOnly = roll.disabled = Boolean(tool.seedLocked);
    lock.setAttribute("aria-pressed", String(Boolean(tool.seedLocked)));
    lock.title = tool.seedLocked ? TEXT.seed_unlock : TEXT.seed_lock;
    lock.setAttribute("aria-label", lock.title);
    lock.querySelector("use").setAttribute("href", tool.seedLocked ? "#fb-lock" : "#fb-unlock");
  }

  store.listen(refresh);
  refresh();
  return { roll: rollSeed, setSeed };
}
