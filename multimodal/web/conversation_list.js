// The list of chats. Gradio runs this once, as a function of (element, trigger, props, watch).
// Titles are what people typed: they become text, never HTML.
"use strict";

const list = element.querySelector(".list");
const groups = list.querySelector(".groups"), statusLine = list.querySelector(".status");
const DAY_MS = 86400000;
const TRASH = '<svg viewBox="0 0 24 24" width="16" height="16" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false"><path d="M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13"/></svg>';
const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
};
const button = (className, label) => {
  const node = make("button", className);
  node.type = "button";
  node.setAttribute("aria-label", label);
  return node;
};

// ---------------------------------------------------------------- what is shown

let stamp = -1, current = "", rows = [], hasOlder = false;
let awaited = 0; // how many chats there were when older ones were asked for
let stop = ""; // the chat that the tabulator reaches; arrows go on from there
const ended = new Map(); // deleted chats whose time to undo is over -> its timer

const dayOf = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
const groupOf = (moment) => {
  const days = Math.round((dayOf(new Date()) - dayOf(new Date(moment))) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Last 7 days";
  return days <= 30 ? "Last 30 days" : "Older";
};
const drawChat = (row) => {
  const open = button("open", row.title);
  open.append(make("span", "title", row.title));
  open.removeAttribute("aria-label");
  open.title = row.title;
  open.setAttribute("aria-keyshortcuts", "Delete");
  if (row.id === current) open.setAttribute("aria-current", "page");
  open.tabIndex = row.id === stop ? 0 : -1;
  open.addEventListener("click", () => trigger("select", { conversation: row.id, pressed: performance.now() }));
  const remove = button("delete", `Delete “${row.title}”`);
  remove.innerHTML = TRASH;
  remove.title = "Delete";
  remove.tabIndex = open.tabIndex;
  remove.addEventListener("click", () => removeChat(row));
  return [open, remove];
};
const drawDeleted = (row) => {
  const words = make("span", "gone", "Deleted ", make("span", "title", `“${row.title}”`));
  const undo = make("button", "undo", "Undo");
  undo.type = "button";
  undo.setAttribute("aria-label", `Undo: bring back “${row.title}”`);
  undo.addEventListener("click", () => restore(row));
  return [words, undo];
};
const drawOlder = () => {
  const older = make("button", "older", "Older chats");
  older.type = "button";
  older.addEventListener("click", () => {
    awaited = groups.querySelectorAll("li").length;
    trigger("expand", {});
  });
  return older;
};
const showAwaited = () => {
  // The button that was pressed is gone or lies further down: the first of the older chats is next.
  const first = groups.querySelectorAll("li")[awaited];
  awaited = 0;
  visit(first);
};
let drawn = "";
const draw = () => {
  const shown = rows.filter((row) => row.undo_s === null || !isOver(row));
  const kept = shown.filter((row) => row.undo_s === null);
  const now = JSON.stringify([shown.map((row) => [row.id, row.title, groupOf(row.updated), row.undo_s === null]), current, hasOlder]);
  if (now === drawn) return; // what is made anew loses a press under way
  drawn = now;
  if (!kept.some((row) => row.id === stop)) stop = kept.some((row) => row.id === current) ? current : kept[0]?.id ?? "";
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const at = focused && { id: focused.closest("li")?.dataset.id, part: focused.className };
  const place = groups.scrollTop;
  groups.replaceChildren();
  let name = null, items = null;
  for (const row of shown) {
    const group = groupOf(row.updated);
    if (group !== name) {
      name = group;
      items = make("ul", "");
      items.setAttribute("aria-label", group);
      groups.append(make("h3", "", group), items);
    }
    const item = make("li", row.undo_s === null ? "" : "deleted", ...(row.undo_s === null ? drawChat(row) : drawDeleted(row)));
    item.dataset.id = row.id;
    items.append(item);
  }
  if (hasOlder) groups.append(drawOlder());
  list.classList.toggle("bare", !shown.length);
  groups.scrollTop = place;
  if (awaited && groups.querySelectorAll("li").length > awaited) showAwaited();
  else if (at?.part === "older" && hasOlder) groups.querySelector(".older").focus({ preventScroll: true });
  else if (at) refocus(at);
};
const itemOf = (id) => groups.querySelector(`li[data-id="${CSS.escape(id)}"]`);
const refocus = ({ id, part }) => {
  // What was focused may be gone: then the undo in its place, or the next chat, is.
  const item = id && itemOf(id);
  const next = item?.querySelector(`.${part}`) ?? item?.querySelector(".undo, .open")
    ?? itemOf(stop)?.querySelector(".open") ?? document.querySelector("#new");
  next?.focus({ preventScroll: Boolean(item) });
};

// ---------------------------------------------------------------- deleting, with undo

const isOver = (row) => ended.get(row.id) === "over";
const countDown = (row) => {
  if (ended.has(row.id)) return;
  ended.set(row.id, setTimeout(() => { ended.set(row.id, "over"); draw(); }, row.undo_s * 1000));
};
const forget = (row) => { clearTimeout(ended.get(row.id)); ended.delete(row.id); };
const removeChat = (row) => {
  trigger("delete", { conversation: row.id });
  statusLine.textContent = `Deleted “${row.title}”. Undo follows in the list.`;
};
const restore = (row) => {
  trigger("undo", { conversation: row.id });
  statusLine.textContent = `“${row.title}” is back.`;
};

// ---------------------------------------------------------------- the keyboard

const visit = (item, part = ".open") => {
  const node = item?.querySelector(part) ?? item?.querySelector(".undo");
  if (!node) return;
  if (!item.classList.contains("deleted")) {
    stop = item.dataset.id;
    for (const other of groups.querySelectorAll(".open, .delete")) other.tabIndex = other.closest("li") === item ? 0 : -1;
  }
  node.focus();
};
groups.addEventListener("keydown", (event) => {
  const item = event.target.closest("li");
  if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
  const items = [...groups.querySelectorAll("li")], place = items.indexOf(item);
  const moves = {
    ArrowDown: () => visit(items[place + 1]), ArrowUp: () => visit(items[place - 1]),
    Home: () => visit(items[0]), End: () => visit(items.at(-1)),
    ArrowRight: () => visit(item, ".delete"), ArrowLeft: () => visit(item),
    Delete: () => item.querySelector(".delete")?.click(),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  moves[event.key]();
});
groups.addEventListener("focusin", (event) => {
  const item = event.target.closest("li");
  if (item && !item.classList.contains("deleted")) stop = item.dataset.id;
});

// ---------------------------------------------------------------- from the server

const apply = (frame) => {
  if (!frame || frame.stamp <= stamp) return;
  stamp = frame.stamp;
  if (frame.current !== current) stop = frame.current || stop;
  current = frame.current;
  rows = frame.rows;
  hasOlder = frame.has_older;
  for (const row of rows) row.undo_s === null ? forget(row) : countDown(row);
  draw();
};
watch("value", () => apply(props.value));
apply(props.value);
