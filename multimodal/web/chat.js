// The chat pane's behaviour. Gradio runs this once, as a function of (element, trigger, props,
// server, upload, watch). What the server sends is data: only `blocks`, which the server has
// sanitized, is ever read as HTML; everything else becomes text.
"use strict";

const pane = element.querySelector(".pane");
const $ = (selector) => pane.querySelector(selector);
const log = $(".log"), list = $(".messages"), empty = $(".empty"), dock = $(".dock");
const form = $(".composer"), box = $("textarea"), sendButton = $(".send"), stopButton = $(".stop");
const attachments = $(".attachments"), queueList = $(".queue"), alertBox = $(".alert");
const newest = $(".newest"), picker = $(".picker"), dropSign = $(".drop"), lightbox = $(".lightbox");
const statusLine = $(".status"), recorder = $(".recorder"), speakButton = $(".speak");
const limits = props.limits;
const isTouch = matchMedia("(hover: none) and (pointer: coarse)").matches;
const isNarrow = matchMedia("(max-width: 480px)").matches;
const SEND_TIMEOUT_MS = 60000, SYNC_EVERY_MS = 2000, SAVE_DELAY_MS = 250, END_PX = 32, ANNOUNCED = 400, DRAG_MS = 1000;

// ---------------------------------------------------------------- small things

const paths = {
  attach: '<path d="M21 12.5 12.4 21a5.5 5.5 0 0 1-7.8-7.8l8.9-8.8a3.7 3.7 0 0 1 5.2 5.2l-8.8 8.8a1.8 1.8 0 0 1-2.6-2.6l8-8"/>',
  talk: '<path d="M3 12h1.500M7.500 8v8M12 4v16M16.500 8v8M20 12h1"/>',
  muted: '<rect x="9" y="3" width="6" height="11" rx="3"/><path d="M5 11a7 7 0 0 0 14 0M12 18v3M4 4l16 16"/>',
  mic: '<rect x="9" y="3" width="6" height="11" rx="3"/><path d="M5 11a7 7 0 0 0 14 0M12 18v3"/>',
  send: '<path d="M12 20V5M5.5 11.5 12 5l6.5 6.5"/>',
  stop: '<rect x="6.5" y="6.5" width="11" height="11" rx="2" fill="currentColor"/>',
  close: '<path d="m6 6 12 12M18 6 6 18"/>',
  copy: '<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5.5 15H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1h9a1 1 0 0 1 1 1v.5"/>',
  check: '<path d="m5 12.5 4.5 4.5L19 7.5"/>',
  retry: '<path d="M4 12a8 8 0 1 1 2.4 5.7M4 12V6.5M4 12h5.5"/>',
  edit: '<path d="m4 20 1-4L16 5l3 3L8 19l-4 1Z"/>',
  back: '<path d="M9 7 4 12l5 5M4 12h11a5 5 0 0 1 0 10h-2"/>',
  left: '<path d="m14.5 5-7 7 7 7"/>', right: '<path d="m9.5 5 7 7-7 7"/>',
  save: '<path d="M12 4v11m0 0 5-5m-5 5-5-5M4 20h16"/>',
  trash: '<path d="M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13"/>',
  write: '<path d="M5 6h14M5 11h14M5 16h8"/>',
  hear: '<path d="M4 12h2m3-5v10m4-13v16m4-11v6m3-3h0"/>',
  look: '<path d="M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12Z"/><circle cx="12" cy="12" r="2.8"/>',
  draw: '<path d="m14 5 5 5-9 9H5v-5z"/><path d="M4 4h3M5.500 2.500v3"/>',
  sound: '<path d="M4 10v4h3l5 4V6L7 10zM16 9a4 4 0 0 1 0 6m2.500-8.500a7.500 7.500 0 0 1 0 11"/>',
  down: '<path d="m6 9.500 6 6 6-6"/>',
  good: '<path d="M4 11h3.500v9H4zM7.500 11l3.700-7.200a2 2 0 0 1 2.700 2.300L13 10h5.200a2 2 0 0 1 2 2.400l-1.200 6a2 2 0 0 1-2 1.600H7.500"/>',
  bad: '<path transform="matrix(1 0 0 -1 0 24)" d="M4 11h3.500v9H4zM7.500 11l3.700-7.200a2 2 0 0 1 2.700 2.300L13 10h5.200a2 2 0 0 1 2 2.400l-1.200 6a2 2 0 0 1-2 1.600H7.500"/>',
};
const icon = (name) => {
  const holder = document.createElement("template");
  holder.innerHTML = `<svg viewBox="0 0 24 24" width="20" height="20" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">${paths[name]}</svg>`;
  return holder.content.firstChild;
};
const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
};
const button = (className, label, iconName, onClick) => {
  const node = make("button", className);
  node.type = "button";
  if (iconName) { node.append(icon(iconName)); node.setAttribute("aria-label", label); node.title = label; }
  else node.textContent = label;
  node.addEventListener("click", onClick);
  return node;
};
const uuid = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
// A key that an input method takes for itself; Safari says so by the code 229 only.
const isComposing = (event) => event.isComposing || event.keyCode === 229;
const announce = (text) => { statusLine.textContent = text; };
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

for (const [selector, name] of [[".attach", "attach"], [".speak", "mic"], [".send", "send"], [".stop", "stop"],
  [".discard", "close"], [".finish", "send"], [".previous", "left"], [".next", "right"], [".save", "save"], [".close", "close"]]) {
  const node = $(selector);
  node.append(icon(name));
  node.title = node.getAttribute("aria-label");
}

const complain = (sentence) => {
  alertBox.replaceChildren();
  if (!sentence) return;
  const dismiss = button("icon dismiss", "Dismiss", "close", () => { complain(""); box.focus(); });
  alertBox.append(make("p", "", sentence), dismiss);
};

// ---------------------------------------------------------------- state

let chat = null, scope = "", epoch = -1, version = -1, busy = false;
let pending = null; // the message on its way to the server; its draft keeps it, too
let seen = 0; // the newest receipt that was taken
let isSyncing = false;
let named = ""; // the conversation that was begun with the first message of the empty one
const whenLeaving = []; // what ends when another conversation is opened
const whenEscaping = []; // what Escape may end; each says whether it did
const waiting = new Map(); // nonce -> what to do with the server's receipt
const receiptsSeen = new Set();
const nodes = new Map(); // message id -> its element
const drafts = new Map(); // conversation -> {text, files, queue, pending, isHeld: whether the queue waits for a refused message}
const early = { id: null, text: "", files: [], queue: [], pending: null, isHeld: false }; // until the server says which chat is open

// ---------------------------------------------------------------- drafts, kept in the browser

const draftKey = (id) => `multimodal-chat:draft:${scope}:${id || "new"}`;
const readDraft = (id) => {
  if (drafts.has(id)) return drafts.get(id);
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(draftKey(id)) || "{}"); } catch { kept = {}; }
  const draft = { id, text: String(kept.text || ""), files: kept.files || [], queue: kept.queue || [], pending: kept.pending || null, isHeld: Boolean(kept.isHeld) };
  drafts.set(id, draft);
  if (draft.pending && !draft.pending.isSent) { // it never left this browser
    draft.text = [draft.pending.text, draft.text].filter((text) => text.trim()).join("\n");
    draft.files = [...draft.pending.files, ...draft.files];
    draft.pending = null;
  }
  const paths = [...draft.files, ...draft.queue.flatMap((item) => item.files)].map((file) => file.path).filter(Boolean);
  if (paths.length) ask("input", { do: "check", paths }, (answer) => {
    if (answer.error) return;
    for (const file of [...draft.files, ...draft.queue.flatMap((item) => item.files)])
      if (answer.missing.includes(file.path)) file.error = "It was kept too long and is gone. Add it again.";
    drawFiles();
  });
  return draft;
};
const plainFile = ({ path, name, kind, thumb, sha256, media_type, key }) => ({ path, name, kind, thumb, sha256, media_type, key });
const isStored = (file) => file.path || file.sha256;
const saveDraft = (draft) => {
  if (draft === early) return;
  const text = draft === current() ? box.value : draft.text;
  draft.text = text;
  const files = draft.files.filter(isStored).map(plainFile);
  const plainItem = (item) => ({ ...item, files: item.files.filter(isStored).map(plainFile) });
  const queue = draft.queue.map(plainItem);
  const underWay = draft.pending && plainItem(draft.pending);
  const key = draftKey(draft.id);
  try {
    if (text || files.length || queue.length || underWay) localStorage.setItem(key, JSON.stringify({ text, files, queue, pending: underWay, isHeld: draft.isHeld }));
    else localStorage.removeItem(key);
  } catch { try { localStorage.removeItem(key); } catch { /* the browser keeps nothing */ } }
};
const current = () => (chat === null ? early : readDraft(chat));
let saveTimer = 0;
const saveSoon = () => { clearTimeout(saveTimer); saveTimer = setTimeout(() => saveDraft(current()), SAVE_DELAY_MS); };
addEventListener("pagehide", () => { if (element.isConnected) saveDraft(current()); });

const openDraft = (id) => {
  const isFirst = chat === null;
  if (isFirst) early.text = box.value;
  chat = id;
  const draft = current();
  if (isFirst) takeEarly(draft);
  box.value = draft.text;
  saveDraft(draft);
  fit();
  drawFiles();
  drawQueue();
};
const takeEarly = (draft) => { // what was typed, attached and sent while the page was still loading
  draft.text = [draft.text, early.text].filter((text) => text.trim()).join("\n");
  draft.files = [...draft.files, ...early.files];
  draft.queue = [...draft.queue, ...early.queue];
};
const moveDraft = (from, to) => { // the first message of a new conversation gave it its name
  const draft = readDraft(from);
  saveDraft(draft);
  try { localStorage.removeItem(draftKey(from)); } catch { /* nothing was kept */ }
  drafts.delete(from);
  draft.id = to;
  drafts.set(to, draft);
  chat = to;
  saveDraft(draft);
};

// ---------------------------------------------------------------- asking the server

const ask = (event, action, then) => {
  const nonce = uuid();
  if (then) waiting.set(nonce, then);
  trigger(event, { action: { ...action, nonce, seen } });
  return nonce;
};
const takeReceipt = ({ nonce, serial, ...answer }) => {
  seen = Math.max(seen, serial);
  if (receiptsSeen.has(nonce)) return;
  receiptsSeen.add(nonce);
  const then = waiting.get(nonce);
  waiting.delete(nonce);
  if (answer.error) complain(answer.error);
  if (then) then(answer);
};

// ---------------------------------------------------------------- frames

const apply = (frame) => {
  if (!frame || !frame.version) return;
  const isRestarted = frame.whole && frame.version + 50 < version;
  if (isRestarted) seen = 0;
  if (frame.scope) scope = frame.scope;
  const isOld = frame.version <= version && !isRestarted;
  const isForeign = !frame.whole && frame.epoch !== epoch;
  if (isOld || isForeign) {
    frame.receipts.forEach(takeReceipt);
    if (!isOld) sync();
    return;
  }
  version = frame.version;
  const isOther = frame.chat !== chat;
  const isNamed = isOther && chat === "" && (frame.chat === named || frame.receipts.some((r) => r.chat === frame.chat && !receiptsSeen.has(r.nonce)));
  if (isNamed) moveDraft("", frame.chat);
  else if (isOther) leaveFor(frame.chat);
  frame.receipts.forEach(takeReceipt);
  pane.dataset.receipts = receiptsSeen.size; // tells that it shows what the server answered
  const wasBusy = busy;
  busy = Boolean(frame.busy);
  pane.classList.toggle("busy", busy);
  if (frame.whole) { epoch = frame.epoch; drawAll(frame.messages); } else drawSome(frame.messages);
  drawState();
  if (isOther && !isNamed) { isFollowing = true; if (frame.chat === "" && !isTouch && !document.activeElement?.closest("#conversations")) box.focus({ preventScroll: true }); }
  keepEnd();
  if (wasBusy !== busy) announceTurn(wasBusy && !isOther);
  sendAgain();
  if (!busy) sendNext();
};
const sync = () => { // one at a time; where the program cannot tell, not again at once
  if (isSyncing) return;
  isSyncing = true;
  const end = () => { isSyncing = false; };
  const lost = setTimeout(end, SEND_TIMEOUT_MS);
  ask("input", { do: "sync" }, () => { clearTimeout(lost); setTimeout(end, SYNC_EVERY_MS); });
};
const leaveFor = (id) => {
  named = "";
  if (chat !== null) saveDraft(current());
  if (recording && recording.draft !== early) endRecording("discard");
  for (const leave of whenLeaving) leave();
  complain("");
  openDraft(id);
};
const announceTurn = (hasEnded) => {
  if (busy) announce("Answering");
  else if (hasEnded) {
    const last = list.lastElementChild;
    announce(last ? `Answer: ${last.querySelector(".body").textContent.slice(0, ANNOUNCED)} ${last.querySelector(".note").textContent}` : "");
  }
};

const drawAll = (messages) => {
  const ids = new Set(messages.map((message) => message.id));
  const turned = new Set(messages.map((message) => takeOver(message, ids)));
  for (const [id, node] of nodes) if (!ids.has(id)) { if (reading && node.contains(reading.source)) stopReading(); node.remove(); nodes.delete(id); }
  let place = list.firstElementChild;
  const fresh = document.createDocumentFragment();
  for (const message of messages) {
    const known = nodes.get(message.id);
    const node = known || newMessage(message);
    if (turned.has(node)) holdActions(node, () => draw(node, message)); else draw(node, message);
    if (known && node === place) { place = place.nextElementSibling; continue; }
    if (place && !place.classList.contains("pending")) list.insertBefore(node, place);
    else fresh.append(node);
  }
  list.append(fresh);
  drawPending();
};
// An answer in whose place another version is shown keeps its element, and what has the focus there.
const takeOver = (message, ids) => {
  const former = nodes.has(message.id) ? undefined : message.versions.find((id) => nodes.has(id) && !ids.has(id));
  if (former === undefined) return null;
  const node = nodes.get(former);
  if (reading && node.contains(reading.source)) stopReading();
  nodes.delete(former);
  nodes.set(message.id, node);
  node.dataset.id = message.id;
  return node;
};
const holdActions = (node, change) => { // what was pressed stays under the pointer
  const place = () => node.parts.actions.getBoundingClientRect().top;
  const before = place();
  change();
  if (!isFollowing) log.scrollTop += place() - before;
};
const drawSome = (messages) => {
  for (const message of messages) {
    let node = nodes.get(message.id);
    if (!node) { node = newMessage(message); list.append(node); }
    draw(node, message);
  }
};
const drawState = () => {
  const isEmpty = !list.childElementCount;
  if (empty.hidden === isEmpty) empty.hidden = !isEmpty;
  pane.classList.toggle("blank", isEmpty);
  stopButton.hidden = !busy;
  stopButton.disabled = false;
  sendButton.hidden = busy && !box.value.trim() && !current().files.length;
  sendButton.setAttribute("aria-label", busy || pending ? "Send when the answer is done" : "Send");
};

// ---------------------------------------------------------------- one message

const newMessage = (message) => {
  const isUser = message.role === "user";
  const node = make("article", `message ${message.role}`);
  node.dataset.id = message.id;
  node.setAttribute("aria-label", isUser ? "You" : "Answer");
  const parts = { body: make("div", "body"), media: make("div", "media"), note: make("p", "note"), actions: make("div", "actions") };
  if (!isUser) { parts.route = newRoute(); node.append(parts.route); }
  if (isUser) node.append(parts.media, parts.body, parts.note, parts.actions);
  else node.append(parts.body, parts.media, parts.note, parts.actions);
  node.parts = parts;
  addActions(node, parts.actions, isUser);
  node.drawn = {};
  node.blocks = [];
  nodes.set(message.id, node);
  return node;
};
const changed = (node, name, value) => {
  const text = JSON.stringify(value);
  if (node.drawn[name] === text) return false;
  node.drawn[name] = text;
  return true;
};
const draw = (node, message) => {
  const { parts } = node;
  node.message = message;
  if (changed(node, "state", message.state)) node.dataset.state = message.state;
  if (message.blocks.length) drawBlocks(node, message.blocks);
  else if (changed(node, "text", message.text) || node.blocks.length) { node.blocks = []; parts.body.textContent = message.text; parts.body.classList.add("plain"); }
  if (changed(node, "media", message.media)) drawMedia(parts.media, message);
  if (changed(node, "preview", message.preview || "")) drawPreview(parts.media, message);
  if (changed(node, "note", message.note)) { parts.note.textContent = message.note; }
  if (parts.route && changed(node, "route", message.route)) drawRoute(parts.route, message.route, message.state === "writing");
  if (changed(node, "redo", message.redo)) drawRedo(node, message.redo);
  if (parts.thumbs) drawRating(node, message.rating);
  if (parts.versions && changed(node, "versions", [message.id, message.versions])) drawVersions(parts.versions, message);
};
const drawBlocks = (node, blocks) => {
  const { body } = node.parts;
  if (body.classList.contains("plain")) body.classList.remove("plain");
  if (!node.blocks.length) body.replaceChildren();
  node.drawn.text = "";
  while (body.childElementCount > blocks.length) body.lastElementChild.remove();
  blocks.forEach((html, index) => {
    if (node.blocks[index] === html && body.children[index]) return;
    const block = make("div", "block");
    block.innerHTML = html;
    for (const code of block.querySelectorAll(".code")) addCodeCopy(code);
    if (body.children[index]) body.children[index].replaceWith(block); else body.append(block);
  });
  node.blocks = blocks.slice();
};
const addCodeCopy = (code) => {
  const name = code.querySelector(".code-name");
  if (name) name.append(button("icon copy", "Copy the code", "copy", (event) => copy(code.querySelector("code").textContent, event.currentTarget)));
};

// pictures and recordings

const drawMedia = (holder, message) => {
  const pictures = message.media.filter((medium) => medium.kind === "image");
  const sounds = message.media.filter((medium) => medium.kind === "audio");
  holder.replaceChildren();
  if (pictures.length) {
    const frame = make("div", "pictures");
    frame.dataset.count = Math.min(pictures.length, 4);
    for (const picture of pictures) frame.append(newPicture(picture));
    holder.append(frame);
  }
  for (const sound of sounds) holder.append(newSound(sound));
};
const gone = (sentence) => make("p", "gone", sentence);
const newPicture = (picture) => {
  if (picture.gone) return gone(picture.gone);
  const image = make("img");
  Object.assign(image, { src: picture.small, alt: picture.alt, width: picture.width, height: picture.height, loading: "lazy", decoding: "async" });
  const holder = make("button", "picture", image);
  holder.type = "button";
  holder.title = "Enlarge";
  Object.assign(holder.dataset, { src: picture.src, name: picture.name, alt: picture.alt });
  image.addEventListener("error", () => holder.replaceWith(gone(`The picture “${picture.name}” cannot be shown. Reload the page.`)), { once: true });
  holder.addEventListener("click", () => openLightbox(holder));
  return holder;
};
const newSound = (sound) => {
  if (sound.gone) {
    const lost = gone(sound.gone);
    if (!sound.transcript) return lost;
    return make("figure", "sound", lost, make("figcaption", "", `“${sound.transcript}”`));
  }
  const player = make("audio");
  Object.assign(player, { controls: true, preload: "metadata", src: sound.src });
  player.setAttribute("aria-label", `${sound.alt}, ${Math.round(sound.seconds)} seconds`);
  const figure = make("figure", "sound", player);
  if (sound.transcript) figure.append(make("figcaption", "", `“${sound.transcript}”`));
  return figure;
};
const drawPreview = (holder, message) => {
  let image = holder.querySelector("img.preview");
  if (!message.preview) { image?.remove(); return; }
  if (!image) { image = make("img", "preview"); image.alt = "The picture so far"; holder.append(image); }
  image.src = message.preview;
};

// the route card

const newRoute = () => {
  const card = make("details", "route");
  const summary = make("summary");
  card.append(summary, make("div", "why"));
  summary.addEventListener("click", lookBack); // what was opened stays in sight
  return card;
};
const seconds = (value) => `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)}\u00a0s`;
const drawRoute = (card, route, isWriting) => {
  card.classList.toggle("working", isWriting);
  const line = make("span", "chain");
  route.steps.forEach((step, index) => {
    if (index) line.append(make("span", "arrow", " → "));
    const name = make("span", "model", icon(step.kind), make("span", "", step.title));
    line.append(name);
  });
  if (!route.steps.length && !route.doing) line.append(make("span", "model", "No model"));
  const state = make("span", "doing");
  if (route.doing) {
    const share = route.fraction === null ? "" : ` ${Math.round(100 * route.fraction)} %`;
    state.append(`${route.steps.length ? " · " : ""}${route.doing}${share}${isWriting ? "…" : ""}`);
  } else if (route.seconds !== null) state.append(` · ${seconds(route.seconds)}`);
  const summary = card.firstElementChild;
  const chevron = icon("down");
  chevron.classList.add("chevron");
  const bar = make("span", "bar");
  if (isWriting && route.fraction !== null) bar.style.width = `${Math.round(100 * route.fraction)}%`;
  summary.replaceChildren(line, state, make("span", "unseen", " Why this model, and how long it took"), chevron, bar);
  drawWhy(card.lastElementChild, route);
};
const drawWhy = (body, route) => {
  body.replaceChildren();
  if (route.why) body.append(make("p", "reason", route.why));
  if (route.findings.length) {
    const found = make("dl", "findings");
    for (const { label, text } of route.findings) found.append(make("div", "", make("dt", "", `${label}:`), " ", make("dd", "", text)));
    body.append(found);
  }
  for (const notice of route.notices) body.append(make("p", "notice", notice));
  if (route.timings.length) body.append(timeline(route.timings));
  if (route.facts.length) body.append(make("p", "facts", route.facts.join(" · ")));
};
const timeline = (timings) => {
  const whole = Math.max(1e-6, ...timings.map((t) => t.wait + t.load + t.run));
  const rows = make("ul", "timings");
  rows.setAttribute("aria-label", "How long each model took");
  for (const timing of timings) {
    const bar = make("div", "track");
    bar.setAttribute("aria-hidden", "true");
    for (const kind of ["wait", "load", "run"]) {
      const part = make("i", kind);
      part.style.width = `${(100 * timing[kind]) / whole}%`;
      bar.append(part);
    }
    const figures = make("p", "figures");
    for (const [kind, word] of [["wait", "waited"], ["load", "loaded"], ["run", "ran"]])
      figures.append(make("span", kind, `${word} ${seconds(timing[kind])}`), " ");
    const row = make("li", "", make("p", "title", timing.title), bar, figures);
    if (timing.evicted.length) row.append(make("p", "evicted", `${timing.evicted.join(", ")} made room.`));
    rows.append(row);
  }
  return rows;
};

// ---------------------------------------------------------------- what can be done with a message

const addActions = (node, bar, isUser) => {
  const copyText = () => node.message.text || node.querySelector(".body").textContent;
  bar.append(button("icon copy", isUser ? "Copy" : "Copy the answer", "copy", (event) => copy(copyText(), event.currentTarget)));
  if (isUser) {
    bar.append(button("icon edit when-idle", "Edit", "edit", () => startEdit(node)));
    bar.append(button("icon take-back when-idle", "Take back", "back", () => takeBack(node)));
  }
  else {
    node.parts.versions = newVersions(node);
    node.parts.thumbs = [newThumb(node, "up", "Good answer", "good"), newThumb(node, "down", "Bad answer", "bad")];
    bar.prepend(node.parts.versions, ...node.parts.thumbs); // what stays in sight stands together
    const read = button("icon read-aloud", "Read aloud", "sound", () => readAloud(node, read));
    read.setAttribute("aria-pressed", "false");
    bar.append(read);
  }
  bar.append(button("icon retry when-idle", "Answer again", "retry", () => retry(node)));
};

// what the person thinks of an answer, and its versions

const newThumb = (node, rating, label, iconName) => {
  const thumb = button("icon thumb", label, iconName, () => {
    const wanted = thumb.getAttribute("aria-pressed") === "true" ? null : rating;
    drawRating(node, wanted || "");
    ask("input", { do: "rate", chat, message: node.dataset.id, rating: wanted }, ({ error }) => { if (error) drawRating(node, node.message.rating); });
  });
  thumb.dataset.rating = rating;
  return thumb;
};
const drawRating = (node, rating) => {
  const { text, blocks, media } = node.message;
  for (const thumb of node.parts.thumbs) {
    thumb.hidden = !(text || blocks.length || media.length); // of nothing one thinks nothing
    const isPressed = String(thumb.dataset.rating === rating);
    if (thumb.getAttribute("aria-pressed") !== isPressed) thumb.setAttribute("aria-pressed", isPressed);
  }
};
const newVersions = (node) => {
  const turnBy = (by) => () => {
    const { id, versions } = node.message, index = versions.indexOf(id) + by;
    if (!versions[index]) return;
    complain("");
    ask("input", { do: "choose", chat, message: versions[index] }, ({ error }) => { if (!error) announce(`Version ${index + 1} of ${versions.length}`); });
  };
  const bar = make("div", "versions when-idle", button("icon", "Previous version", "left", turnBy(-1)), make("span", "which"), button("icon", "Next version", "right", turnBy(1)));
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Versions of this answer");
  return bar;
};
const drawVersions = (bar, { id, versions }) => {
  const index = versions.indexOf(id);
  const [previous, which, next] = bar.children;
  bar.hidden = versions.length < 2;
  which.textContent = `${index + 1}/${versions.length}`;
  previous.setAttribute("aria-disabled", String(index <= 0)); // a disabled one would lose the focus
  next.setAttribute("aria-disabled", String(index === versions.length - 1));
};

// reading aloud: one answer at a time; a second press stops it

let reading = null; // {source: the button, audio, isOver}
const showReading = (source, isReading) => {
  source.setAttribute("aria-pressed", String(isReading));
  source.replaceChildren(icon(isReading ? "stop" : "sound"));
  source.title = isReading ? "Stop reading" : "Read aloud";
};
const stopReading = () => {
  if (!reading) return;
  const { source, audio } = reading;
  reading = null;
  if (audio) { audio.pause(); audio.removeAttribute("src"); audio.load(); } // the server stops, too
  window.speechSynthesis?.cancel();
  showReading(source, false);
};
const readAloud = (node, source) => {
  const wasThis = reading?.source === source;
  stopReading();
  if (wasThis) { announce("Stopped reading"); return; }
  const mine = { source, audio: null };
  reading = mine;
  showReading(source, true);
  announce("Reading aloud");
  ask("input", { do: "read_aloud", chat: chat || "", message: node.dataset.id }, (answer) => {
    if (reading !== mine) return;
    if (answer.error) { stopReading(); return; }
    if (!answer.address) { stopReading(); offerBrowserVoice(answer, source); return; }
    mine.audio = new Audio(answer.address);
    mine.audio.addEventListener("ended", () => { if (reading === mine) stopReading(); });
    mine.audio.addEventListener("error", () => { if (reading === mine) { stopReading(); tellUnread(answer, source); } });
    mine.audio.play().catch(() => {}); // what keeps it from playing comes as an error, too
  });
};
const tellUnread = async ({ address, words, language }, source) => {
  const reply = await fetch(address).catch(() => null);
  const why = reply && !reply.ok ? await reply.text() : "";
  reply?.body?.cancel?.().catch(() => {});
  const unplayed = "This browser could not play the answer. Press “Read aloud” again.";
  offerBrowserVoice({ why: why || unplayed, words, language }, source);
};
const offerBrowserVoice = ({ why, words, language }, source) => {
  complain(why);
  const voices = window.speechSynthesis?.getVoices() || [];
  const voice = voices.find(({ lang }) => lang.split(/[-_]/)[0] === language);
  if (!voice) return;
  const speak = button("plain", `Read it with your browser's own voice (${voice.name})`, null, () => {
    complain("");
    stopReading();
    const mine = { source, audio: null };
    reading = mine;
    showReading(source, true);
    const said = new SpeechSynthesisUtterance(words);
    Object.assign(said, { voice, lang: voice.lang });
    said.onend = said.onerror = () => { if (reading === mine) stopReading(); };
    speechSynthesis.speak(said);
    source.focus();
  });
  alertBox.querySelector("p").append(" ", speak);
};
const copy = async (text, source) => {
  try {
    if (navigator.clipboard && isSecureContext) await navigator.clipboard.writeText(text);
    else copyBySelection(text);
  } catch { complain("The browser did not let this be copied. Select it and copy it by hand."); return; }
  source.replaceChildren(icon("check"));
  announce("Copied");
  setTimeout(() => source.replaceChildren(icon("copy")), 1500);
};
const copyBySelection = (text) => {
  const before = document.activeElement;
  const area = make("textarea", "unseen");
  area.value = text;
  pane.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  before?.focus?.({ preventScroll: true });
  if (!isCopied) throw new Error("copy");
};
const drawRedo = (node, offers) => {
  node.querySelector(".redo")?.remove();
  if (!offers.length) return;
  const bar = make("div", "redo when-idle");
  for (const { value, label } of offers)
    bar.append(button("chip", `Redo with ${label}`, "", () => begin({ do: "retry", chat, message: node.dataset.id, model: value })));
  node.append(bar);
};
const followers = (node) => { let count = 0; for (let next = node.nextElementSibling; next; next = next.nextElementSibling) count += 1; return count; };
const begin = (action, then) => {
  if (busy || pending) { complain("An answer is being written. Wait until it is done, or stop it."); return; }
  complain("");
  isFollowing = true;
  ask("submit", action, then);
};
const retry = (node) => {
  const lost = followers(node);
  const isAnswer = node.classList.contains("assistant");
  const act = () => begin({ do: "retry", chat, message: node.dataset.id });
  if (lost === 0 || !isAnswer) { act(); return; }
  confirmIn(node, `${plural(lost, "later message")} will be removed.`, "Answer again", act);
};
const confirmIn = (node, sentence, label, act) => {
  node.querySelector(".confirm")?.remove();
  const bar = make("div", "confirm", make("p", "", sentence));
  const close = () => { bar.remove(); node.querySelector(".retry")?.focus(); };
  const yes = button("plain strong", label, "", () => { bar.remove(); act(); });
  bar.append(yes, button("plain", "Keep", "", close));
  bar.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); close(); } });
  node.append(bar);
  yes.focus();
};
const takeBack = (node) => {
  if (busy || pending) return;
  const draft = current();
  ask("input", { do: "take_back", chat, message: node.dataset.id }, (answer) => {
    if (answer.error) return;
    restore({ text: answer.text, files: answer.files.map((file) => ({ ...file, kind: file.media_type.split("/")[0] })) }, draft);
    box.focus();
  });
};

// editing

const startEdit = (node) => {
  if (node.querySelector(".editor")) return;
  const lost = followers(node);
  const answers = Math.max(0, lost - 1);
  const area = make("textarea");
  area.value = node.message.text;
  area.rows = 2;
  area.setAttribute("aria-label", "Edit the message");
  const editor = make("form", "editor", area);
  const close = () => { editor.remove(); node.classList.remove("editing"); node.querySelector(".edit").focus(); };
  const help = make("p", "hint", answers > 0
    ? `The ${plural(lost, "message")} after it will be removed.` : "Ctrl+Enter sends it, Esc closes.");
  if (answers > 0) help.classList.add("warning");
  const send = make("button", "plain strong", answers > 0 ? `Send, and remove ${lost}` : "Send");
  send.type = "submit";
  editor.append(make("div", "row", help, button("plain", "Cancel", "", close), send));
  editor.addEventListener("submit", (event) => {
    event.preventDefault();
    begin({ do: "edit", chat, message: node.dataset.id, text: area.value }, (answer) => { if (!answer.error) { editor.remove(); node.classList.remove("editing"); box.focus({ preventScroll: true }); } });
  });
  editor.addEventListener("keydown", (event) => {
    if (isComposing(event)) return;
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); close(); }
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); editor.requestSubmit(); }
  });
  node.classList.add("editing");
  node.append(editor);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
};

// ---------------------------------------------------------------- the end of the conversation

let isFollowing = true, lastTop = 0, lastHeight = 0;
const distance = () => log.scrollHeight - log.scrollTop - log.clientHeight;
const keepEnd = () => {
  if (isFollowing) log.scrollTop = log.scrollHeight;
  showNewest();
};
const showNewest = () => { newest.hidden = isFollowing || distance() < 2 * END_PX; };
log.addEventListener("scroll", () => {
  const hasGrown = log.scrollHeight !== lastHeight;
  if (distance() < END_PX) isFollowing = true;
  else if (log.scrollTop < lastTop - 1 && !hasGrown) isFollowing = false;
  lastTop = log.scrollTop;
  lastHeight = log.scrollHeight;
  showNewest();
}, { passive: true });
const lookBack = () => { if (log.scrollHeight > log.clientHeight) { isFollowing = false; } };
log.addEventListener("wheel", (event) => { if (event.deltaY < 0) lookBack(); }, { passive: true });
let touchY = 0;
log.addEventListener("touchstart", (event) => { touchY = event.touches[0].clientY; }, { passive: true });
log.addEventListener("touchmove", (event) => { if (event.touches[0].clientY > touchY + 4) lookBack(); }, { passive: true });
log.addEventListener("keydown", (event) => { if (["PageUp", "ArrowUp", "Home"].includes(event.key)) lookBack(); });
newest.addEventListener("click", () => { isFollowing = true; keepEnd(); box.focus({ preventScroll: true }); });
new ResizeObserver(keepEnd).observe(list);
new ResizeObserver(keepEnd).observe(log);

// ---------------------------------------------------------------- the message box

const fitsItself = CSS.supports("field-sizing", "content");
const fit = () => {
  if (fitsItself) return;
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 220)}px`;
};
box.addEventListener("input", () => { fit(); saveSoon(); drawState(); });
box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
  event.preventDefault();
  send();
});
form.addEventListener("submit", (event) => { event.preventDefault(); send(); });

const send = () => {
  const draft = current();
  const failed = draft.files.find((file) => file.error);
  if (failed) { complain(`“${failed.name}” cannot be sent: ${failed.error}`); return; }
  if (!box.value.trim() && !draft.files.length) { complain("The message is empty. Type something, or add a picture or voice."); return; }
  if (draft.files.length > limits.files) { complain(`${draft.files.length} files are too many for one message; send ${limits.files}.`); return; }
  const item = { nonce: uuid(), text: box.value, files: draft.files };
  box.value = "";
  draft.files = [];
  complain("");
  submit(item, draft);
  saveSoon();
};
const submit = (item, draft) => {
  if (draft.isHeld) { draft.isHeld = false; draft.queue.unshift(item); sendNext(); } // it takes the place of the refused one
  else if (busy || pending || draft.queue.length || chat === null) { draft.queue.push(item); announce("It will be sent when the answer is done."); }
  else dispatch(item, draft);
  fit(); drawFiles(); drawQueue(); drawState();
};
const sendNext = () => {
  const draft = current();
  if (busy || pending || draft.isHeld || !draft.queue.length) return;
  const item = draft.queue.shift();
  drawQueue();
  saveDraft(draft);
  dispatch(item, draft);
};
const dispatch = async (item, draft) => {
  pending = draft.pending = item;
  isFollowing = true;
  saveDraft(draft);
  drawPending();
  drawState();
  await Promise.all(item.files.map((file) => file.upload));
  const failed = item.files.find((file) => file.error || !isStored(file));
  if (failed) { refuse(item, draft, `“${failed.name}” cannot be sent: ${failed.error || "It is gone. Add it again."}`); return; }
  item.isSent = true;
  saveDraft(draft);
  const place = draft.id;
  let timer = 0, isLate = false;
  waiting.set(item.nonce, (answer) => {
    clearTimeout(timer);
    item.whenSent?.(answer);
    if (answer.error) { refuse(item, draft, answer.error); return; }
    if (!draft.id && draft === current()) named = answer.chat;
    if (isLate) complain("");
    forget(item, draft);
    saveDraft(draft);
  });
  const files = item.files.map((file) => (file.sha256
    ? { sha256: file.sha256, media_type: file.media_type, key: file.key, name: file.name } : { path: file.path, name: file.name }));
  const action = Number.isInteger(item.example) ? { do: "example", index: item.example } : { do: "send", text: item.text, files, ...(item.spoken && { spoken: item.spoken }) };
  const transmit = () => { // the same message, however often it arrives: its nonce says so
    trigger("submit", { action: { ...action, chat: place, nonce: item.nonce, seen } });
    timer = setTimeout(() => {
      isLate = true;
      complain("The program has not taken the message yet. It is kept here and sent again until it does.");
      transmit();
    }, SEND_TIMEOUT_MS);
  };
  transmit();
};
const sendAgain = () => { // what was on its way when the page was closed or reloaded
  const draft = current();
  if (!pending && draft?.pending) dispatch(draft.pending, draft);
};
const forget = (item, draft) => {
  if (draft.pending === item) draft.pending = null;
  if (pending === item) pending = null;
  drawPending();
};
const refuse = (item, draft, sentence) => {
  forget(item, draft);
  if (!Number.isInteger(item.example)) restore(item, draft);
  draft.isHeld = draft.queue.length > 0; // what waits was meant to follow it
  if (draft === current()) drawQueue();
  saveDraft(draft);
  complain(sentence);
  drawState();
};
const restore = (item, draft) => { // back into the box, before what was typed since
  const rest = draft === current() ? box.value : draft.text;
  draft.text = [item.text, rest].filter((text) => text.trim()).join("\n");
  draft.files = [...item.files, ...draft.files];
  if (draft === current()) { box.value = draft.text; fit(); drawFiles(); drawState(); }
  saveDraft(draft);
};
const drawPending = () => {
  list.querySelector(".pending")?.remove();
  if (!pending || pending !== current()?.pending) return;
  const node = make("article", "message user pending", make("div", "body plain", pending.text));
  node.setAttribute("aria-label", "You, being sent");
  node.setAttribute("aria-busy", "true");
  if (pending.files.length) node.prepend(make("p", "hint", plural(pending.files.length, "file")));
  list.append(node);
  empty.hidden = true;
  keepEnd();
};
const drawQueue = () => {
  const draft = current();
  queueList.replaceChildren(...draft.queue.map((item) => {
    const words = item.text.trim() || plural(item.files.length, "file");
    const cancel = button("icon", `Do not send: ${words.slice(0, 60)}`, "close", () => {
      draft.queue = draft.queue.filter((other) => other !== item);
      draft.isHeld &&= draft.queue.length > 0;
      restore(item, draft);
      drawQueue();
      box.focus();
    });
    const when = draft.isHeld ? "Sent after what is in the message box" : "Sent when the answer is done and this chat is open";
    return make("li", "", make("span", "when", when), make("span", "words", words), cancel);
  }));
};

stopButton.addEventListener("click", () => stop());
const stop = () => {
  if (!busy) return;
  stopButton.disabled = true;
  announce("Stopping");
  ask("input", { do: "stop", chat });
  box.focus({ preventScroll: true });
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || isComposing(event) || !element.isConnected || lightbox.open) return;
  const isHere = pane.contains(document.activeElement) || document.activeElement === document.body;
  if (!isHere) return;
  if (recording) { event.preventDefault(); endRecording("discard"); }
  else if (dictation) { event.preventDefault(); cancelDictation(); }
  else if (whenEscaping.some((end) => end())) event.preventDefault();
  else if (busy) { event.preventDefault(); stop(); }
});

// ---------------------------------------------------------------- attaching

const drawFiles = () => {
  const draft = current();
  attachments.replaceChildren(...draft.files.map((file) => {
    const item = make("li", `attachment ${file.kind || ""}`);
    if (file.thumb) { const image = make("img"); image.src = file.thumb; image.alt = ""; item.append(image); }
    else item.append(make("span", "sign", icon(file.kind === "image" ? "look" : "sound")));
    item.append(make("span", "name", file.name));
    if (file.error) { item.classList.add("failed"); item.append(make("span", "fault", file.error)); }
    else if (!isStored(file)) { item.classList.add("loading"); item.setAttribute("aria-busy", "true"); }
    item.append(button("icon remove", `Remove ${file.name}`, "close", () => {
      const next = item.nextElementSibling || item.previousElementSibling;
      draft.files = draft.files.filter((other) => other !== file);
      const place = [...attachments.children].indexOf(next);
      drawFiles(); drawState(); saveSoon();
      (attachments.children[Math.min(place, attachments.childElementCount - 1)]?.querySelector(".remove") || box).focus();
    }));
    return item;
  }));
};
const kindOf = (file) => {
  const type = file.type.split("/")[0];
  if (["image", "audio", "video"].includes(type)) return type;
  const suffix = file.name.split(".").pop().toLowerCase();
  if (["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"].includes(suffix)) return "image";
  return ["wav", "mp3", "m4a", "flac", "ogg", "opus", "mp4", "mpeg", "mpga", "webm", "mov", "aac"].includes(suffix) ? "audio" : "";
};
const thumbOf = async (file) => {
  try {
    const bitmap = await createImageBitmap(file, { resizeWidth: 112, resizeQuality: "medium" });
    const canvas = make("canvas");
    canvas.width = bitmap.width; canvas.height = Math.min(224, bitmap.height);
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0);
    return canvas.toDataURL("image/jpeg", 0.7);
  } catch { return ""; }
};
const attach = (files) => {
  const draft = current();
  const refused = [];
  for (const file of files) {
    const kind = kindOf(file);
    if (!kind) { refused.push(`“${file.name}” is not a picture or a recording.`); continue; }
    if (file.size > limits.fileBytes) { refused.push(`“${file.name}” has ${Math.round(file.size / 1e6)} MB and at most ${Math.round(limits.fileBytes / 1e6)} MB can be sent. Make it smaller.`); continue; }
    if (!file.size) { refused.push(`“${file.name}” is empty.`); continue; }
    draft.files.push(newUpload(file, kind));
  }
  if (refused.length) complain(refused.join(" ")); else complain("");
  drawFiles(); drawState();
  announce(plural(draft.files.length, "file") + " attached");
};
const newUpload = (file, kind) => {
  const entry = { name: file.name || `pasted.${file.type.split("/")[1] || "png"}`, kind };
  const show = () => { // where it is by now
    const draft = [early, ...drafts.values()].find((each) => [each, each.pending, ...each.queue].some((item) => item?.files.includes(entry)));
    if (!draft) return;
    if (draft === current()) { drawFiles(); drawState(); }
    saveDraft(draft);
  };
  if (kind === "image") thumbOf(file).then((thumb) => { entry.thumb = thumb; show(); });
  entry.upload = upload(file).then(({ path }) => { entry.path = path; }, (fault) => { entry.error = uploadFault(fault); }).then(show);
  return entry;
};
const uploadFault = (fault) => { // the server's own sentence, where it sent one
  const told = /^HTTP \d{3}: (.+)$/s.exec(fault?.message ?? "")?.[1];
  if (!told) return "It could not be uploaded. Check that the program is still running, remove it and add it again.";
  try { return String(JSON.parse(told).detail); } catch { return told.slice(0, ANNOUNCED); }
};
$(".attach").addEventListener("click", () => picker.click());
picker.addEventListener("change", () => { attach([...picker.files]); picker.value = ""; box.focus({ preventScroll: true }); });

const hasFiles = (event) => element.isConnected && [...(event.dataTransfer?.types || [])].includes("Files");
let dropTimer = 0; // what is dragged out of the window sends no event when what it is over goes
const showDrop = (isShown) => { clearTimeout(dropTimer); dropSign.hidden = !isShown; if (isShown) dropTimer = setTimeout(() => showDrop(false), DRAG_MS); };
document.addEventListener("dragenter", (event) => { if (hasFiles(event)) { event.preventDefault(); showDrop(true); } });
document.addEventListener("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; showDrop(true); } });
document.addEventListener("dragleave", (event) => { if (hasFiles(event) && !event.relatedTarget) showDrop(false); });
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  showDrop(false);
  attach([...event.dataTransfer.files]);
  box.focus({ preventScroll: true });
});
document.addEventListener("paste", (event) => {
  if (!element.isConnected) return;
  const focused = document.activeElement;
  const isElsewhere = focused && focused !== document.body && !pane.contains(focused);
  const files = [...(event.clipboardData?.files || [])];
  // A table or a paragraph of an office program comes with a picture of itself.
  const isText = focused?.matches("textarea, input") && event.clipboardData?.getData("text/plain").trim();
  if (isElsewhere || isText || !files.length) return;
  event.preventDefault();
  attach(files);
});

// ---------------------------------------------------------------- the examples of an empty conversation

props.examples.forEach((example, index) => {
  const sign = example.thumb ? make("img") : make("span", "sign", icon(example.kind === "audio" ? "hear" : "write"));
  if (example.thumb) { sign.src = example.thumb; sign.alt = ""; }
  const card = button("example", example.text, "", () => {
    if (busy || pending || chat === null) return;
    dispatch({ nonce: uuid(), text: example.text, files: [], example: index }, current());
  });
  card.prepend(sign);
  $(".examples").append(make("li", "", card));
});

// ---------------------------------------------------------------- enlarged pictures

let shownPictures = [], shownIndex = 0, opener = null;
const openLightbox = (source) => {
  shownPictures = [...list.querySelectorAll(".picture")];
  shownIndex = shownPictures.indexOf(source);
  opener = source;
  showPicture();
  lightbox.showModal();
  $(".lightbox .close").focus();
};
const showPicture = () => {
  const { src, name, alt } = shownPictures[shownIndex].dataset;
  const image = lightbox.querySelector("img");
  image.src = src;
  image.alt = alt;
  lightbox.querySelector("figcaption").textContent = alt === name ? name : `${name}: ${alt}`;
  const save = $(".save");
  save.href = src;
  save.download = name.includes(".") ? name : `${name}.${src.split(".").pop()}`;
  const isMany = shownPictures.length > 1;
  $(".place").textContent = isMany ? `${shownIndex + 1} of ${shownPictures.length}` : "";
  for (const node of [$(".previous"), $(".next")]) node.hidden = !isMany;
};
const turn = (by) => {
  shownIndex = (shownIndex + by + shownPictures.length) % shownPictures.length;
  showPicture();
};
$(".previous").addEventListener("click", () => turn(-1));
$(".next").addEventListener("click", () => turn(1));
$(".lightbox .close").addEventListener("click", () => lightbox.close());
lightbox.addEventListener("click", (event) => { if (event.target === lightbox || event.target.tagName === "FIGURE") lightbox.close(); });
lightbox.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "ArrowRight") turn(1);
});
lightbox.addEventListener("close", () => { lightbox.querySelector("img").removeAttribute("src"); (opener?.isConnected ? opener : box).focus(); });

// ---------------------------------------------------------------- voice

let recording = null;
const MICROPHONE_FAULTS = {
  NotAllowedError: "The microphone is blocked for this page. Allow it in the browser's settings for this site (the sign left of the address), or attach a recording.",
  NotFoundError: "No microphone was found. Plug one in, or attach a recording.",
  NotReadableError: "The microphone is in use by another program. Close that, or attach a recording.",
};
const openMicrophone = async (wanted) => { // null where there is none, which is told
  if (!navigator.mediaDevices?.getUserMedia || typeof MediaRecorder === "undefined") {
    complain(isSecureContext
      ? "This browser cannot record. Use another one, or attach a recording."
      : "Browsers lend the microphone only to pages opened over https, or on the machine itself as localhost. Open the page that way, or attach a recording.");
    return null;
  }
  try { return await navigator.mediaDevices.getUserMedia({ audio: wanted }); }
  catch (error) {
    complain(MICROPHONE_FAULTS[error.name] || `The microphone cannot be used (${error.message}). Attach a recording instead.`);
    return null;
  }
};
const startRecording = async () => {
  if (recording) return;
  complain("");
  const mine = recording = { chunks: [], draft: current(), end: "" };
  $(".elapsed").textContent = "0:00"; // and not what the recording before came to
  mine.stream = await openMicrophone({ channelCount: 1, noiseSuppression: true });
  if (!mine.stream) {
    if (recording === mine) recording = null;
    return;
  }
  if (recording !== mine) { mine.stream.getTracks().forEach((track) => track.stop()); return; }
  mine.recorder = new MediaRecorder(mine.stream);
  mine.recorder.addEventListener("dataavailable", (event) => { if (event.data.size) mine.chunks.push(event.data); });
  mine.recorder.addEventListener("stop", () => finishRecording(mine));
  mine.stream.getTracks()[0].addEventListener("ended", () => endRecording("keep"));
  mine.recorder.start(1000);
  mine.startedMs = performance.now();
  form.classList.add("recording");
  recorder.hidden = false;
  $(".finish").focus();
  announce("Recording. Press again to end and send, Escape to discard.");
  meter(mine);
};
const meter = (mine) => {
  const audio = mine.audio = new AudioContext();
  const analyser = audio.createAnalyser();
  analyser.fftSize = 1024;
  audio.createMediaStreamSource(mine.stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize), levels = [];
  const canvas = $(".level"), context = canvas.getContext("2d"), elapsed = $(".elapsed");
  const step = () => {
    if (recording !== mine) return;
    analyser.getFloatTimeDomainData(samples);
    const power = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
    levels.push(Math.min(1, Math.max(0.03, power * 5)));
    if (levels.length > 100) levels.shift();
    canvas.dataset.level = power.toFixed(4);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = getComputedStyle(canvas).color;
    levels.forEach((level, index) => context.fillRect(canvas.width - (levels.length - index) * 6, (canvas.height * (1 - level)) / 2, 3, canvas.height * level));
    const passed = Math.floor((performance.now() - mine.startedMs) / 1000);
    elapsed.textContent = `${Math.floor(passed / 60)}:${String(passed % 60).padStart(2, "0")}`;
    if (passed >= limits.seconds) { endRecording("keep"); complain("The recording has reached the longest that can be sent, so it was ended and attached."); return; }
    setTimeout(() => requestAnimationFrame(step), 60);
  };
  step();
};
const endRecording = (how) => { // "send", "keep", "dictate" or "discard"
  const mine = recording;
  if (!mine) return;
  recording = null;
  mine.end = how;
  form.classList.remove("recording");
  recorder.hidden = true;
  if (mine.recorder && mine.recorder.state !== "inactive") mine.recorder.stop();
  mine.stream?.getTracks().forEach((track) => track.stop());
  mine.audio?.close();
  if (how === "discard") announce("The recording was discarded.");
  box.focus({ preventScroll: true });
};
const finishRecording = (mine) => {
  if (mine.end === "discard" || !mine.end) return;
  const type = mine.recorder.mimeType.split(";")[0] || "audio/webm";
  const file = new File(mine.chunks, `recording.${type.split("/")[1]}`, { type });
  if (!file.size) { complain("The recording is empty. Record it again."); return; }
  if (mine.end === "dictate") { dictate(file, mine.draft === early ? current() : mine.draft); return; }
  if (mine.draft !== current() && mine.draft !== early) { mine.draft.files.push(newUpload(file, "audio")); return; }
  attach([file]);
  if (mine.end === "send") send();
};
// A recording that becomes words in the box, to be edited before they are sent. Where that fails it is
// attached, so that nothing that was said is lost.
let dictation = null;
const showDictation = (mine) => {
  dictation = mine;
  form.querySelector(".dictating").hidden = !mine;
};
const dictate = (file, draft) => {
  const mine = { entry: newUpload(file, "audio"), draft };
  showDictation(mine);
  announce("Writing down what you said. Escape cancels.");
  mine.entry.upload.then(() => {
    if (dictation !== mine) return;
    const { entry } = mine;
    if (entry.error) { endDictation(mine, ""); return; }
    ask("input", { do: "dictate", chat: draft.id ?? "", file: { path: entry.path, name: entry.name } }, ({ words }) => endDictation(mine, words || ""));
  });
};
const endDictation = (mine, words) => {
  if (dictation !== mine) return; // it was cancelled, and what is heard now is nobody's
  showDictation(null);
  const { draft, entry } = mine;
  if (!words) draft.files.push(entry);
  const put = (text) => [text.trimEnd(), words].filter(Boolean).join(" ");
  if (draft === current()) {
    if (words) box.value = put(box.value);
    fit(); drawFiles(); drawState();
    box.focus({ preventScroll: true });
    box.setSelectionRange(box.value.length, box.value.length);
  } else if (words) draft.text = put(draft.text);
  announce(words ? `Written down: ${words.slice(0, ANNOUNCED)}` : "The recording was attached instead.");
  saveDraft(draft);
};
const cancelDictation = () => {
  const { draft } = dictation;
  showDictation(null);
  ask("input", { do: "dictate", chat: draft.id ?? "" });
  announce("What you said was discarded.");
  box.focus({ preventScroll: true });
};
$(".forget").addEventListener("click", cancelDictation);
$(".dictate").addEventListener("click", () => endRecording("dictate"));
speakButton.addEventListener("click", startRecording);
$(".finish").addEventListener("click", () => endRecording("send"));
$(".keep").addEventListener("click", () => endRecording("keep"));
$(".discard").addEventListener("click", () => endRecording("discard"));

// ---------------------------------------------------------------- the focus

// What has the focus may be hidden or removed, by a press or by a frame; then the message box takes
// it (on a touch screen the conversation: a keyboard would come up), so that Tab goes on from here.
let focused = null;
const home = () => (isTouch ? log : box).focus({ preventScroll: true });
const keepFocus = () => {
  if (!focused || (focused.isConnected && focused.checkVisibility())) return;
  focused = null;
  if (document.activeElement === document.body || document.activeElement === null) home();
};
pane.addEventListener("focusin", (event) => { focused = event.target; });
pane.addEventListener("focusout", (event) => {
  const left = event.target;
  setTimeout(() => {
    if (focused === left && left.isConnected && left.checkVisibility() && document.activeElement !== left) focused = null;
    else keepFocus();
  });
});
pane.addEventListener("click", () => setTimeout(keepFocus));

// ---------------------------------------------------------------- begin

const applyText = (text) => { apply(text ? JSON.parse(text) : null); keepFocus(); };
watch("value", () => applyText(props.value));
applyText(props.value);
if (isNarrow) box.placeholder = "Ask or speak";
if (!isTouch) box.focus({ preventScroll: true });
