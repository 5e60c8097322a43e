// Paintings that come and go: files, links, code, examples. What they hold is read and written by Python.

const LINK = "#painting=";
const COPIED_MS = 2500;
const LARGEST = 2 ** 25; // bytes of a file

/** A menu that its button opens: arrows walk, Enter takes, Escape and a click elsewhere close. */
function makeMenu(button, list) {
  const items = [...list.querySelectorAll("[role=menuitem]")];

  function open(isOpen) {
    list.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) items[0].focus();
  }

  button.addEventListener("click", () => open(list.hidden));
  list.addEventListener("click", () => open(false));
  list.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items[(to + items.length) % items.length].focus();
    else if (event.key === "Escape") {
      open(false);
      button.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  list.addEventListener("focusout", (event) => {
    if (!list.contains(event.relatedTarget) && event.relatedTarget !== button) open(false);
  });
}

/** `server` reads and writes; `onOpen(json)` shows a painting; `status.say` tells what went wrong. */
function makeFiles({ root, server, session, store, status, onOpen }) {
  const find = (selector) => root.querySelector(selector);
  const picker = find(".fb-picker");
  const gallery = find("dialog.fb-gallery");
  const share = find("dialog.fb-share");
  makeMenu(find("[data-do=file]"), find(".fb-menu"));

  const fileName = (kind) => `featurebrush-${store.painting.seed}.${kind}`;

  function give(url, name) {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
  }

  async function ask(call, sorry) {
    const answer = await answerOf(call);
    if (answer && !answer.error) return answer;
    status.say(sorry.replace("{why}", answer?.error ?? TEXT.error_no_answer));
    return null;
  }

  async function open(request, name) {
    const answer = await ask(server.read(request), TEXT.error_open.replace("{name}", name));
    if (answer) await onOpen(answer.painting);
    return Boolean(answer);
  }

  async function openFile(file) {
    if (!file) return;
    if (file.size > LARGEST) status.say(TEXT.error_large.replace("{name}", file.name));
    else await open({ file: base64(new Uint8Array(await file.arrayBuffer())) }, file.name);
  }

  /** Opens the painting of the page's address, if there is one, and takes it out of there. */
  async function openLink() {
    if (!location.hash.startsWith(LINK)) return;
    const opened = await open({ link: location.hash }, TEXT.link);
    if (opened) history.replaceState(null, "", location.pathname + location.search);
  }

  async function save() {
    const url = URL.createObjectURL(new Blob([await toJson(store.painting)], { type: "application/json" }));
    give(url, fileName("json"));
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  async function download() {
    const answer = await ask(server.png({ session, painting: await toJson(store.painting) }), TEXT.error_download);
    if (answer) give(answer.image, fileName("png"));
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false; // not allowed to, or no such thing without https
    }
  }

  function show(title, text) {
    share.querySelector("h2").textContent = title;
    const area = share.querySelector("textarea");
    area.value = text;
    share.querySelector("output").textContent = "";
    share.showModal();
    area.select();
  }

  async function shared() {
    const page = location.href.split("#")[0];
    return ask(server.share({ painting: await toJson(store.painting), page }), TEXT.error_share);
  }

  async function copyLink() {
    const answer = await shared();
    if (!answer) return;
    if (!answer.link) status.say(answer.no_link);
    else if (await copy(answer.link)) status.say(TEXT.link_copied, COPIED_MS);
    else show(TEXT.link_title, answer.link);
  }

  async function showCode() {
    const answer = await shared();
    if (answer) show(TEXT.code_title, answer.code);
  }

  share.querySelector("[data-do=copy]").addEventListener("click", async () => {
    const area = share.querySelector("textarea");
    area.select();
    const done = await copy(area.value);
    share.querySelector("output").textContent = done ? TEXT.copied : TEXT.copy_by_hand;
  });

  let hung = false;
  async function showGallery() {
    gallery.showModal();
    if (hung) return;
    hung = true;
    const answer = await ask(server.gallery({}), TEXT.error_gallery);
    if (!answer) {
      hung = false;
      gallery.close();
      return;
    }
    gallery.querySelector("p").textContent = answer.examples.length ? "" : TEXT.gallery_none;
    for (const { name, painting, image } of answer.examples) {
      const button = document.createElement("button");
      const picture = Object.assign(new Image(), { src: image, alt: "" });
      button.type = "button";
      button.append(picture, name);
      button.addEventListener("click", () => {
        gallery.close();
        onOpen(painting);
      });
      gallery.querySelector(".fb-examples").append(button);
    }
    gallery.querySelector(".fb-examples button")?.focus();
  }

  for (const dialog of [gallery, share]) {
    dialog.querySelector("[data-do=close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  picker.addEventListener("change", () => {
    openFile(picker.files[0]);
    picker.value = ""; // the same file can be opened again
  });
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  root.addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    root.dataset.drop = "yes";
  });
  root.addEventListener("dragleave", (event) => {
    if (!root.contains(event.relatedTarget)) delete root.dataset.drop;
  });
  root.addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    delete root.dataset.drop;
    openFile(event.dataTransfer.files[0]);
  });
  addEventListener("hashchange", openLink);

  const actions = { open: () => picker.click(), save, download, link: copyLink, code: showCode, gallery: showGallery };
  for (const [name, act] of Object.entries(actions)) {
    for (const button of root.querySelectorAll(`[data-file=${name}]`)) button.addEventListener("click", act);
  }
  return { ...actions, openLink };
}
