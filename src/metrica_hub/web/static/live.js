// Every page: the stream that keeps it live, times as ages, the theme, the keys, and forms and links that change only
// what the page shows. The server renders everything; this file puts it in its place.
"use strict";

const page = (() => {
  const handlers = { part: ({ id, html }) => swap(id, html), summary: (summary) => showSummary(summary) };
  const link = document.getElementById("link");
  // The hub's clock counts: this machine's may be wrong by hours.
  let aheadMs = Date.parse(document.body.dataset.now) - Date.now();
  const hubNow = () => Date.now() + aheadMs;
  let heardAt = hubNow();
  let stale = link?.dataset.state === "stale";
  let open = false;
  let source = null;
  let problems = null;

  const fragment = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html; // made and escaped by the hub's own templates; the policy allows no inline script
    tellTime(template.content);
    return template.content.firstElementChild;
  };

  const age = (seconds) => {
    if (seconds < 2) return "now";
    if (seconds < 60) return `${seconds} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return `${Math.floor(seconds / 86400)} d ago`;
  };

  const ago = (then) => age(Math.max(0, Math.round((hubNow() - then) / 1000)));

  const tellTime = (root) => {
    for (const time of root.querySelectorAll("time")) {
      const then = Date.parse(time.dateTime);
      time.title ||= `${time.dateTime.replace("T", " ").slice(0, 19)} UTC`;
      const left = Math.max(0, Math.round((then - hubNow()) / 1000));
      const text = "ahead" in time.dataset ? (left ? `in ${left} s` : "now") : ago(then);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const swap = (id, html) => {
    const before = document.getElementById(id);
    if (!before) return;
    // What somebody is using stays as it is; what they opened stays open.
    if (before.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return;
    const after = fragment(html);
    for (const details of before.querySelectorAll("details[open][id]")) {
      after.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
    }
    const focused = before.contains(document.activeElement) ? document.activeElement.id : "";
    before.replaceWith(after);
    if (focused) document.getElementById(focused)?.focus();
  };

  const showSummary = (summary) => {
    aheadMs = Date.parse(summary.now) - Date.now();
    document.title = document.title.replace(/^(\(\d+\) )?/, summary.problems ? `(${summary.problems}) ` : "");
    document.getElementById("icon").href = `/badge/${summary.badge}.svg`;
    if (problems !== null && problems !== summary.problems) {
      document.getElementById("said").textContent = `${summary.problems} devices need a look`;
    }
    problems = summary.problems;
    const stopped = document.getElementById("stopped");
    stopped.hidden = !summary.stopped;
    stopped.textContent = `${summary.stopped} stopped`;
    stale = summary.stale;
    tellLink();
  };

  const tellLink = () => {
    const state = !open ? "lost" : stale ? "stale" : "live";
    const old = ago(heardAt).replace(" ago", " old");
    const text = {
      live: "live",
      lost: old === "now" ? "connecting" : `reconnecting, ${old}`,
      stale: "the database is away; this may be old",
    }[state];
    if (link.dataset.state !== state) link.dataset.state = state;
    const words = link.querySelector("span");
    if (words.textContent !== text) words.textContent = text;
  };

  const connect = () => {
    source?.close();
    if (!document.body.dataset.live) return; // nobody signed in yet
    open = false;
    source = new EventSource(document.body.dataset.live);
    source.onopen = () => { open = true; heardAt = hubNow(); tellLink(); };
    source.onerror = () => {
      open = false;
      tellLink();
      // Refused for good (signed out, a hub that was set up anew): the page itself has to be asked for again.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (message) => {
        heardAt = hubNow();
        handle(JSON.parse(message.data));
      });
    }
  };

  // Shows what is at `url` in place of what the page shows; the address says so.
  let asked = 0;
  const show = async (url, { replace = false } = {}) => {
    const number = (asked += 1);
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    if (number !== asked) return; // somebody typed on
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = found.getElementById("main");
    if (!answer.ok || !main || answer.redirected) { location.assign(url); return; }
    if (replace) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
    const active = document.activeElement;
    const focused = active?.id;
    document.getElementById("main").replaceWith(main);
    document.body.dataset.live = found.body.dataset.live;
    document.title = found.title;
    tellTime(main);
    document.dispatchEvent(new Event("shown"));
    const again = focused && document.getElementById(focused);
    if (again && again !== active && active.matches("input:not([type]), input[type=search], textarea")) {
      again.value = active.value; // somebody typed on
      again.focus();
      again.setSelectionRange(active.selectionStart, active.selectionEnd);
    } else if (again) again.focus();
    connect();
  };

  document.addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a[data-swap]");
    if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    show(anchor.href);
  });
  addEventListener("popstate", () => location.reload());

  // Typing filters at once where the page is the one that the form leads to; elsewhere Enter leads there.
  let typing = 0;
  const target = (form) => new URL(form.getAttribute("action"), location); // a field may be called "action"
  const filterBy = (form, replace) => {
    const url = target(form);
    const kept = new URL(location.href).searchParams;
    for (const name of ["show", "view", "sort"]) if (kept.has(name)) url.searchParams.set(name, kept.get(name));
    for (const [name, value] of new FormData(form)) if (value) url.searchParams.set(name, value);
    show(url.href, { replace });
  };
  const here = (form) => form?.method === "get" && form.hasAttribute("action") && target(form).pathname === location.pathname;
  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (!here(form)) return;
    clearTimeout(typing);
    typing = setTimeout(() => filterBy(form, true), 200);
  });
  document.addEventListener("submit", (event) => {
    if (!here(event.target)) return;
    event.preventDefault();
    clearTimeout(typing);
    filterBy(event.target, true);
  });

  // The theme.
  const theme = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  const chosen = () => document.documentElement.dataset.theme ?? "auto";
  const tellTheme = () => {
    theme.querySelector("span").textContent = chosen();
    theme.setAttribute("aria-label", `Theme: ${chosen()}; change it`);
  };
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(chosen()) + 1) % themes.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // No storage here: it lasts as long as the page.
    }
    tellTheme();
  });
  theme.hidden = false;
  tellTheme();

  // The keys.
  const keys = document.getElementById("keys");
  const keysButton = document.getElementById("keys-button");
  keysButton.addEventListener("click", () => keys.showModal());
  keysButton.hidden = false;
  let wentAt = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isField = event.target.matches?.("input, textarea, select");
    if (isField) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const goes = performance.now() - wentAt < 1500;
    wentAt = event.key === "g" ? performance.now() : 0;
    const place = goes && document.querySelector(`.pages a[data-key="${CSS.escape(event.key)}"]`);
    if (place) place.click();
    else if (event.key === "?") keys.showModal();
    else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("search").focus();
      document.getElementById("search").select();
    }
  });

  tellTime(document);
  setInterval(() => { tellTime(document); if (!open && source) tellLink(); }, 1000);
  // After the page's own file has said what else it listens to.
  addEventListener("DOMContentLoaded", connect);
  return { on: (name, handle) => { const first = handlers[name]; handlers[name] = first ? (data) => { first(data); handle(data); } : handle; }, fragment, show };
})();
