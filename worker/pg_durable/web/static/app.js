// What the page does beyond its HTML: times in the zone of the browser, copying, and staying as it was when it changes.
"use strict";

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const two = (number) => String(number).padStart(2, "0");

function clockOf(at) {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

function momentOf(at) {
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return day === dayOf(new Date()) ? clockOf(at) : `${day} ${clockOf(at)}`;
}

function dayOf(at) {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

function ageOf(at) {
  const passed = Date.now() - at.getTime(), size = Math.abs(passed);
  const text = size < MINUTE ? `${Math.floor(size / SECOND)} s` : size < HOUR ? `${Math.floor(size / MINUTE)} min`
    : size < DAY ? `${Math.floor(size / HOUR)} h ${Math.floor((size % HOUR) / MINUTE)} min`
    : `${Math.floor(size / DAY)} d`;
  return passed < 0 ? `in ${text}` : `${text} ago`;
}

const sinceOf = (at) => ageOf(at).replace(" ago", "");
const SHOWN = { since: sinceOf, moment: momentOf, age: ageOf, clock: clockOf };

// Text alone is changed, never markup; the exact time stays in the title.
function showTimes(root) {
  for (const element of root.querySelectorAll("time[data-show]")) {
    const at = new Date(element.dateTime);
    const text = (SHOWN[element.dataset.show] || momentOf)(at);
    if (element.textContent !== text) element.textContent = text;
    if (!element.dataset.exact) {
      element.dataset.exact = element.title;
      element.title = `${dayOf(at)} ${clockOf(at)} here, ${element.dataset.exact}`;
    }
  }
}

// An EventSource as htmx knows it, which is closed while the tab is hidden, and then catches up.
class Stream {
  constructor(url) {
    this.url = url;
    this.heard = [];
    this.open();
    document.addEventListener("visibilitychange", () => this.follow());
    window.addEventListener("pagehide", () => { this.left = true; this.follow(); });
    window.addEventListener("pageshow", () => { this.left = false; this.follow(); });
  }

  open() {
    this.source = new EventSource(this.url);
    this.source.onopen = (event) => { connected(true); if (this.onopen) this.onopen(event); };
    this.source.onerror = (event) => {
      connected(false);
      if (this.source.readyState === EventSource.CLOSED && this.onerror) this.onerror(event);
    };
    for (const [name, listener] of this.heard) this.source.addEventListener(name, listener);
    this.source.addEventListener("down", () => connected(false));
    this.source.addEventListener("change", () => connected(true));
    this.source.addEventListener("expired", () => location.reload());
  }

  follow() {
    if (this.closed) return;
    if (document.hidden || this.left) {
      this.source.close();
    } else if (this.source.readyState === EventSource.CLOSED) {
      this.open();
      for (const [name, listener] of this.heard) if (name === "change") listener(new MessageEvent("change", { data: "[]" }));
    }
  }

  addEventListener(name, listener) {
    this.heard.push([name, listener]);
    this.source.addEventListener(name, listener);
  }

  removeEventListener(name, listener) {
    this.heard = this.heard.filter((pair) => pair[0] !== name || pair[1] !== listener);
    this.source.removeEventListener(name, listener);
  }

  close() {
    this.closed = true;
    this.source.close();
  }

  get readyState() {
    return this.source.readyState;
  }
}

function connected(yes) {
  document.documentElement.dataset.live = yes ? "yes" : "no";
}

// What the reader has unfolded, scrolled and chosen stays so when the page changes below.
const kept = { open: new Map(), scrolled: new Map(), chosen: new Set(), focused: null };

function keep(root) {
  kept.open.clear();
  kept.scrolled.clear();
  kept.chosen.clear();
  for (const element of root.querySelectorAll("details[id]")) kept.open.set(element.id, element.open);
  for (const element of root.querySelectorAll("[data-scrolls][id]")) {
    kept.scrolled.set(element.id, [element.scrollLeft, element.scrollTop]);
  }
  for (const element of root.querySelectorAll("input[type=checkbox]:checked")) kept.chosen.add(element.value);
  const focused = document.activeElement;
  kept.focused = focused && root.contains(focused) ? focused : null;
}

function restore(root) {
  for (const [id, open] of kept.open) {
    const element = document.getElementById(id);
    if (element) element.open = open;
  }
  for (const [id, [left, top]] of kept.scrolled) {
    const element = document.getElementById(id);
    if (element) element.scrollTo(left, top);
  }
  for (const element of root.querySelectorAll("input[type=checkbox]")) element.checked ||= kept.chosen.has(element.value);
  const focused = kept.focused && (document.getElementById(kept.focused.id) || likeOne(root, kept.focused));
  if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
  kept.focused = null;
}

// The element that took the place of one that has no id.
function likeOne(root, old) {
  const same = (element) => element.getAttribute("href") === old.getAttribute("href") && element.textContent === old.textContent;
  return [...root.querySelectorAll(old.tagName)].find(same);
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not behind TLS: the old way
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

htmx.createEventSource = (url) => new Stream(url);

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("input[data-all]")) {
    for (const element of document.querySelectorAll(event.target.dataset.all)) element.checked = event.target.checked;
  }
  if (event.target.matches("select[data-sends]")) event.target.form.requestSubmit();
});
// What comes as it is shown already changes nothing: the tag of a page is that of its content.
document.addEventListener("htmx:beforeSwap", (event) => {
  const meta = document.querySelector("meta[name=tag]");
  const tag = (event.detail.xhr.getResponseHeader("etag") || "").replace(/^W\/|"/g, "");
  if (tag && tag === meta.content) event.detail.shouldSwap = false;
  meta.content = tag;
  keep(event.detail.target);
});
document.addEventListener("htmx:afterSettle", (event) => {
  const root = document.getElementById(event.detail.target.id) || document.body;
  showTimes(root);
  restore(root);
});
document.addEventListener("DOMContentLoaded", () => {
  document.documentElement.dataset.scripts = "yes";
  showTimes(document);
  setInterval(() => { if (!document.hidden) showTimes(document); }, 5 * SECOND);
});
