// Devices that are ticked in the table, and what all of them are told.
"use strict";

(() => {
  const chosen = new Set();
  const bar = () => document.getElementById("chosen");
  const field = (name) => document.getElementById(`chosen-${name}`);
  const ASKS = { restart: "Service", hold: "Why", "go-on": "Why" };

  const dress = (row) => {
    if (!document.querySelector("table[data-choose]") || !row.matches("tr.row")) return;
    const name = row.id.replace("device-", "");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.has(name);
    box.dataset.name = name;
    box.setAttribute("aria-label", `Choose ${name}`);
    label.append(box);
    row.querySelector("th").prepend(label);
  };

  const tell = () => {
    if (!bar()) return;
    const count = chosen.size === 1 ? "1 device" : `${chosen.size} devices`;
    const verb = field("verb").selectedOptions[0];
    bar().hidden = chosen.size === 0;
    field("count").textContent = `${count} chosen`;
    field("with").hidden = !(verb.value in ASKS);
    field("with").querySelector("span").textContent = ASKS[verb.value] ?? "";
    field("value").required = verb.value in ASKS;
    bar().querySelector("button").textContent = `${verb.textContent[0].toUpperCase()}${verb.textContent.slice(1)}: ${count}`;
  };

  const commandOf = (verb, value) => ({
    restart: { verb, arguments: { service: value } },
    hold: { verb, arguments: { on: true, reason: value } },
    "go-on": { verb: "hold", arguments: { on: false, reason: value } },
  })[verb] ?? { verb };

  const give = async () => {
    const command = commandOf(field("verb").value, field("value").value);
    const button = bar().querySelector("button");
    const refused = [];
    let given = 0;
    button.disabled = true;
    for (const name of [...chosen]) {
      try {
        await page.post(`/api/v1/devices/${name}/commands`, command);
        given += 1;
        chosen.delete(name);
        const box = document.querySelector(`[data-name="${name}"]`);
        if (box) box.checked = false;
      } catch (error) {
        refused.push(`${name}: ${error.message}`);
      }
      page.tell(bar(), `Given to ${given}.`, "busy");
    }
    button.disabled = false;
    page.tell(bar(), [`Given to ${given}.`, ...refused.slice(0, 3)].join(" "), refused.length ? "bad" : "good");
    const said = bar().hidden;
    tell();
    bar().hidden = said; // what came of it stays to be read
  };

  const dressAll = () => {
    for (const row of document.querySelectorAll("tr.row")) dress(row);
    tell();
  };

  document.addEventListener("row", ({ detail }) => dress(detail));
  document.addEventListener("shown", dressAll);
  document.addEventListener("change", ({ target }) => {
    if (target.dataset.name) {
      if (target.checked) chosen.add(target.dataset.name);
      else chosen.delete(target.dataset.name);
      tell();
    } else if (target.id === "chosen-verb") tell();
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "chosen") return;
    event.preventDefault();
    give();
  });
  dressAll();
})();
