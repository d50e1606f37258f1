// The fleet page: devices as they change, in their group and order; the counters; the latest events.
"use strict";

(() => {
  const place = (list, row) => {
    const order = row.dataset.order;
    let low = 0;
    let high = list.children.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list.children[middle].dataset.order < order) low = middle + 1;
      else high = middle;
    }
    list.insertBefore(row, list.children[low] ?? null);
  };

  const listOf = (group) => document.querySelector(`#groups [data-group="${CSS.escape(group)}"]`);

  // A row of a table can't stand alone in a template's content without a table around it in old browsers; here it can.
  const said = (row) => row.querySelector(".deployment")?.textContent ?? row.getAttribute("aria-label");

  const count = (list) => {
    const size = list?.closest("section")?.querySelector(".size");
    if (size) size.textContent = list.children.length;
  };

  const showDevice = ({ name, group, order, html }) => {
    const before = document.getElementById(`device-${name}`);
    const from = before?.parentElement;
    if (!html) { // it does not meet the filter any more
      before?.remove();
      count(from);
      return;
    }
    const list = listOf(group);
    if (!list) { // the first of its group: the page has no place for it yet
      page.show(location.href, { replace: true });
      return;
    }
    const row = page.fragment(html);
    document.dispatchEvent(new CustomEvent("row", { detail: row }));
    if (from === list && before.dataset.order === order) {
      if (said(before) !== said(row)) row.classList.add("is-new");
      if (!before.contains(document.activeElement)) before.replaceWith(row);
      return;
    }
    before?.remove();
    row.classList.add("is-new");
    place(list, row);
    count(list);
    count(from);
  };

  const showEvent = ({ html }) => {
    const events = document.getElementById("events");
    if (!events) return;
    events.prepend(page.fragment(html));
    while (events.children.length > Number(events.dataset.keep)) events.lastElementChild.remove();
  };

  const showCounts = ({ counts }) => {
    for (const counter of document.querySelectorAll("[data-count]")) {
      const count = counts[counter.dataset.count];
      counter.querySelector("b").textContent = count;
      counter.classList.toggle("is-zero", count === 0);
    }
  };

  page.on("device", showDevice);
  page.on("event", showEvent);
  page.on("summary", showCounts);
})();
