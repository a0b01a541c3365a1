// The studio's behaviour. Gradio runs this once, as a function of (element, trigger, props, server,
// upload, watch). The server sends parts of HTML, made by templates that escape what they are given;
// here they are put in place of the old ones without losing focus, what is unfolded, or what is typed.
"use strict";

const studio = element.querySelector(".studio"), form = studio.querySelector("form.new");
const $ = (selector) => studio.querySelector(selector);
const alertBox = $(".alert"), picker = $(".picker"), dialog = $(".confirm"), statusLine = $(".status");
const KEPT = "multimodal-chat:studio", PLAN_DELAY_MS = 400, PLAN_WAIT_MS = 300, RETRY_MS = 400;
const waiting = new Map(); // nonce -> what to do with the server's frame
const touched = new Set(); // fields whose faults are shown
let serial = 0, showsAllFaults = false, place = null, isClosed = false;

const announce = (text) => { statusLine.textContent = text; };
const nonce = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
const complain = (sentence) => {
  alertBox.replaceChildren();
  if (!sentence) return;
  const text = document.createElement("p"), close = document.createElement("button");
  text.textContent = sentence;
  close.type = "button"; close.className = "button quiet small"; close.textContent = "Dismiss";
  close.addEventListener("click", () => complain(""));
  alertBox.append(text, close);
  alertBox.scrollIntoView({ block: "nearest" });
};
const ask = (action, then) => {
  const name = nonce();
  waiting.set(name, then || (() => {}));
  trigger("submit", { action: { nonce: name, seen: serial, ...action } });
};

// ---------------------------------------------------------------- parts

const keyOf = (node) => node.nodeType === 1 ? node.dataset.key ?? node.id ?? "" : "";
const isSame = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
const LEFT = new Set(["open", "checked", "value", "selected", "hidden"]); // what people, or this script, changed
const morph = (old, fresh) => {
  if (old.nodeType !== 1) { if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue; return; }
  for (const { name, value } of fresh.attributes) if (!LEFT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!LEFT.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  if (!/^(TEXTAREA|INPUT|SELECT)$/.test(old.nodeName)) morphChildren(old, fresh);
};
const morphChildren = (old, fresh) => {
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    let match = at;
    while (match && !isSame(match, next)) match = match.nextSibling;
    if (!match) { old.insertBefore(next, at); continue; }
    while (at !== match) { const gone = at; at = at.nextSibling; gone.remove(); }
    morph(match, next);
    at = match.nextSibling;
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
};
const put = (name, html) => {
  const part = $(`[data-part="${name}"]`), holder = document.createElement("template");
  holder.innerHTML = html;
  morphChildren(part, holder.content);
  for (const time of part.querySelectorAll("time[data-s]"))
    time.textContent = new Date(1000 * time.dataset.s).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
};

// ---------------------------------------------------------------- where one is

const read = () => {
  const found = /^#studio(?:\/(new|chats|job)(?:\/([A-Za-z0-9._-]+))?)?$/.exec(location.hash);
  if (!found) return null;
  const [, view = "jobs", job = ""] = found;
  return view === "job" && !job ? { view: "jobs", job: "" } : { view, job: view === "job" ? job : "" };
};
const setView = (view) => {
  studio.dataset.view = view;
  for (const node of studio.querySelectorAll("[data-in]")) node.hidden = node.dataset.in !== view;
  for (const link of studio.querySelectorAll(".views a"))
    link.dataset.of.split(" ").includes(view) ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
};
const show = (isFirst = false) => {
  const next = read();
  document.documentElement.classList.toggle("in-studio", Boolean(next));
  document.querySelector("#to-studio a")?.toggleAttribute("data-here", Boolean(next));
  if (!next && !place) return;
  const isNew = !place || !next || place.view !== next.view || place.job !== next.job;
  const wasInside = Boolean(place);
  place = next;
  complain("");
  if (!next) return ask({ do: "look", view: "" });
  if (!isClosed) setView(next.view);
  if (isNew && next.view === "job" && $('[data-part="job"]').dataset.of !== next.job) put("job", "");
  $('[data-part="job"]').dataset.of = next.job;
  look();
  if (!isFirst) { // who moved here hears where they are
    (wasInside ? studio : studio.querySelector("h2")).scrollIntoView?.({ block: "start" });
    studio.querySelector("h2").focus({ preventScroll: true });
  }
};
const look = () => {
  const asked = place;
  studio.setAttribute("aria-busy", "true");
  ask({ do: "look", ...asked }, (frame) => {
    if (frame.again && place === asked) return setTimeout(look, RETRY_MS); // who this is, is not known yet
    studio.setAttribute("aria-busy", "false");
    if (asked?.view === "new" && place === asked && !isClosed) begin();
  });
};
const go = (address) => { if (location.hash === address) show(); else location.hash = address; };
addEventListener("hashchange", () => { if (element.isConnected) show(); });
document.addEventListener("click", (event) => { // what is chosen at the side is the chat
  if (!place || !event.target.closest("#new, #conversations .open")) return;
  history.pushState(null, "", location.pathname + location.search);
  show();
}, true);

// ---------------------------------------------------------------- the form

const fields = () => {
  const found = {};
  for (const input of form.elements) {
    if (!input.name || input.closest("[data-methods][hidden]")) continue;
    if (input.type === "radio") { if (input.checked) found[input.name] = input.value; }
    else if (input.dataset.list !== undefined) { (found[input.name] ??= []); if (input.checked) found[input.name].push(input.value); }
    else found[input.name] = input.type === "checkbox" ? input.checked : input.value;
  }
  return found;
};
const fill = (values) => {
  for (const input of form.elements) {
    if (!input.name || !(input.name in values)) continue;
    const value = values[input.name];
    if (input.type === "radio") input.checked = input.value === value;
    else if (input.dataset.list !== undefined) input.checked = value.includes(input.value);
    else if (input.type === "checkbox") input.checked = value === true;
    else input.value = value;
  }
  if ("upload_told" in values) form.dataset.told = values.upload_told;
  dress();
};
const keep = () => { try { sessionStorage.setItem(KEPT, JSON.stringify({ ...fields(), upload_told: form.dataset.told || "" })); } catch { /* the browser keeps nothing */ } };
const dress = () => {
  const method = form.elements.method, source = fields().source;
  for (const node of form.querySelectorAll("[data-methods]")) node.hidden = !node.dataset.methods.split(" ").includes(method.value);
  for (const node of form.querySelectorAll("[data-source]")) node.hidden = node.dataset.source !== source;
  const chosen = method.selectedOptions[0];
  form.querySelector("#method-about").textContent = chosen?.dataset.about || "";
  form.querySelector("#data-shape").textContent = chosen?.dataset.shape || "";
  form.querySelector('[data-told="upload"]').textContent = (form.elements.upload.value && form.dataset.told) || "none yet";
};
let planTimer = 0;
const planSoon = () => { clearTimeout(planTimer); planTimer = setTimeout(plan, PLAN_DELAY_MS); };
let plansAsked = 0;
const plan = () => {
  const asked = ++plansAsked, part = $('[data-part="plan"]');
  const late = setTimeout(() => part.setAttribute("aria-busy", "true"), PLAN_WAIT_MS);
  ask({ do: "plan", fields: fields() }, (frame) => {
    clearTimeout(late);
    if (asked === plansAsked) part.removeAttribute("aria-busy");
    tell(frame.faults || {});
  });
};
const tell = (faults) => {
  for (const node of form.querySelectorAll("[data-fault]")) {
    const name = node.dataset.fault, isShown = faults[name] && (showsAllFaults || touched.has(name));
    const sentence = isShown ? faults[name] : "";
    if (node.textContent !== sentence) node.textContent = sentence;
    const names = name === "data" ? ["upload", "place", "hub"] : [name];
    for (const input of names.map((one) => form.elements[one]).filter((one) => one?.setAttribute))
      isShown ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
  }
};
const begin = () => {
  if (!form.dataset.begun) {
    form.dataset.begun = "yes";
    let kept = {};
    try { kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}"); } catch { kept = {}; }
    if (waitingFields) kept = { ...kept, ...waitingFields };
    waitingFields = null;
    fill(kept);
  }
  dress();
  plan();
};
let waitingFields = null; // what to fill in once the form is there
const takeFields = (values) => {
  if (!form.dataset.begun) { waitingFields = { ...waitingFields, ...values }; return; }
  fill(values); keep(); plan();
};
const onEdit = (event) => {
  const { name } = event.target;
  if (!name) return;
  if (event.type === "change") touched.add(["source", "upload", "place", "hub"].includes(name) ? "data" : name);
  if (name === "source") touched.delete("data");
  dress(); keep(); planSoon();
};
form.addEventListener("input", onEdit);
form.addEventListener("change", onEdit);
const isBusy = (button, is) => { button.setAttribute("aria-disabled", String(is)); button.classList.toggle("busy", is); };
const submit = (button, action, then) => {
  if (button.getAttribute("aria-disabled") === "true") return;
  showsAllFaults = true;
  complain("");
  isBusy(button, true);
  ask({ ...action, fields: fields() }, (frame) => {
    isBusy(button, false);
    tell(frame.faults || {});
    const first = form.querySelector('[aria-invalid="true"]:not([type="hidden"])') ?? (frame.faults?.data && form.querySelector('[data-pick="keep_data"]'));
    if (frame.faults && first) {
      const fold = first.closest("details");
      if (fold) fold.open = true;
      first.focus();
    } else if (!frame.alert) then?.(frame);
  });
};
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(form.querySelector('[data-form="start"]'), { do: "start" }, () => {
    showsAllFaults = false; touched.clear();
    form.elements.name.value = ""; keep();
  });
});

// ---------------------------------------------------------------- what is pressed

const confirmed = (button) => new Promise((resolve) => {
  if (!button.dataset.confirm) return resolve(true);
  const yes = dialog.querySelector(".yes"), no = dialog.querySelector(".no");
  dialog.querySelector("p").textContent = button.dataset.confirm;
  yes.textContent = button.dataset.confirmYes;
  const end = (is) => { dialog.close(); resolve(is); button.isConnected && button.focus(); };
  yes.onclick = () => end(true); no.onclick = () => end(false);
  dialog.oncancel = (event) => { event.preventDefault(); end(false); };
  dialog.showModal();
  no.focus();
});
const onJob = async (button) => {
  if (button.getAttribute("aria-disabled") === "true" || !(await confirmed(button))) return;
  complain("");
  isBusy(button, true);
  const which = button.dataset.folder ? { folder: button.dataset.folder } : {};
  ask({ do: button.dataset.do, job: place.job, ...which }, (frame) => { isBusy(button, false); if (frame.chat) chatWith(frame.chat); });
};
studio.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-export]");
  if (!form) return;
  event.preventDefault();
  const button = form.querySelector("button");
  if (button.getAttribute("aria-disabled") === "true") return;
  complain("");
  isBusy(button, true);
  ask({ do: "export", job: place.job, kind: form.elements.kind.value }, () => isBusy(button, false));
});
const chatWith = (card) => {
  trigger("select", { model: card, pressed: performance.now() });
  history.pushState(null, "", location.pathname + location.search);
  show();
  document.querySelector("#composer textarea")?.focus();
};
const copy = async (button) => {
  const said = button.textContent;
  try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "Copied"; announce("Copied"); }
  catch { button.textContent = "Select the text and copy it"; }
  setTimeout(() => { button.textContent = said; }, 2000);
};
const save = (button) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([button.dataset.save], { type: "application/toml" }));
  link.download = button.dataset.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
const pick = (button) => {
  picker.value = "";
  picker.accept = button.dataset.accept;
  picker.onchange = () => picker.files[0] && take(button, picker.files[0]);
  picker.click();
};
const take = async (button, file) => {
  const does = button.dataset.pick;
  complain("");
  isBusy(button, true);
  try {
    if (does === "import_settings") {
      const text = await file.text();
      return ask({ do: does, text }, () => isBusy(button, false));
    }
    const { path } = await upload(file);
    if (does === "keep_data") touched.add("data");
    ask({ do: does, file: { path, name: file.name } }, () => isBusy(button, false));
  } catch (fault) {
    isBusy(button, false);
    complain(fault?.message || "The file could not be sent.");
  }
};
studio.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do) onJob(button);
  else if (button.dataset.copy) copy(button);
  else if (button.dataset.save) save(button);
  else if (button.dataset.pick) pick(button);
  else if (button.dataset.form === "preview") submit(button, { do: "preview" }, () => { showsAllFaults = false; $("#preview-name")?.focus(); });
  else if (button.dataset.rows && button.getAttribute("aria-disabled") !== "true") ask({ do: "rows", method: button.dataset.rows });
});

// ---------------------------------------------------------------- rows of the person's own chats

studio.addEventListener("change", (event) => {
  const rows = event.target.closest("form.rows");
  if (!rows) return;
  for (const row of rows.querySelectorAll("[data-row]")) row.classList.toggle("dropped", !row.querySelector("[data-keep]").checked);
  rows.querySelector("[data-count]").textContent = rows.querySelectorAll("[data-keep]:checked").length;
});
studio.addEventListener("submit", (event) => {
  const rows = event.target.closest("form.rows");
  if (!rows) return;
  event.preventDefault();
  const kept = [...rows.querySelectorAll("[data-row]")].filter((row) => row.querySelector("[data-keep]").checked).map((row) => ({
    id: Number(row.dataset.row), texts: Object.fromEntries([...row.querySelectorAll("[data-text]")].map((box) => [box.dataset.text, box.value])) }));
  complain("");
  ask({ do: "keep_rows", method: rows.dataset.method, stamp: rows.dataset.stamp, rows: kept });
});

// ---------------------------------------------------------------- values under the pointer

const pointsOf = (path) => (path.getAttribute("d").match(/[-\d.]+ [-\d.]+/g) || []).map((pair) => pair.split(" ").map(Number));
const number = (value) => Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
studio.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest(".canvas");
  for (const other of studio.querySelectorAll(".canvas .tip:not([hidden])")) if (other.parentElement !== canvas) hide(other.parentElement);
  if (!canvas) return;
  const box = canvas.getBoundingClientRect(), size = canvas.querySelector("svg").viewBox.baseVal;
  const at = ((event.clientX - box.left) / box.width) * size.width;
  const data = canvas.dataset, lines = [];
  let nearest = null;
  for (const path of canvas.querySelectorAll(".curve")) {
    const point = pointsOf(path).reduce((best, one) => (Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best));
    nearest ??= point[0];
    const value = +data.yHigh - (point[1] / size.height) * (data.yHigh - data.yLow);
    lines.push(path.dataset.label ? `${path.dataset.label}: ${number(value)}` : number(value));
  }
  if (nearest === null) return;
  const step = Math.round(+data.xLow + (nearest / size.width) * (data.xHigh - data.xLow));
  const tip = canvas.querySelector(".tip"), cursor = canvas.querySelector(".cursor"), share = nearest / size.width;
  tip.textContent = [`Step ${step}`, ...lines].join("\n");
  cursor.style.left = `${100 * share}%`;
  tip.style.left = share < 0.5 ? `calc(${100 * share}% + 10px)` : "auto";
  tip.style.right = share < 0.5 ? "auto" : `calc(${100 * (1 - share)}% + 10px)`;
  tip.hidden = cursor.hidden = false;
});
const hide = (canvas) => { canvas.querySelector(".tip").hidden = canvas.querySelector(".cursor").hidden = true; };
studio.addEventListener("pointerleave", () => { for (const canvas of studio.querySelectorAll(".canvas")) hide(canvas); });

// ---------------------------------------------------------------- from the server

const apply = (text) => {
  let packet;
  try { packet = JSON.parse(text); } catch { return; }
  for (const frame of packet.frames) {
    if (frame.serial <= serial) continue;
    serial = frame.serial;
    takeFrame(frame);
  }
};
const takeFrame = (frame) => {
  isClosed = Boolean(frame.is_closed);
  for (const [name, html] of Object.entries(frame.parts || {})) put(name, html);
  if (isClosed) setView("closed");
  else if (place && studio.dataset.view !== place.view) setView(place.view);
  if (frame.fields) takeFields(frame.fields);
  if (frame.alert) complain(frame.alert);
  const then = waiting.get(frame.nonce);
  waiting.delete(frame.nonce);
  then?.(frame);
  if (frame.go) go(frame.go);
};
watch("value", () => apply(props.value));
setView("");
show(true);
