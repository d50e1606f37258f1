// Forms that steer: what they say goes to the API as JSON, what it answers is said beside the button.
"use strict";

(() => {
  const bodyOf = (form) => {
    const body = {};
    for (const field of form.elements) {
      if (!field.name || field.disabled || (field.type === "radio" && !field.checked)) continue;
      if (field.value === "" && !field.required) continue;
      const place = field.dataset.in ? (body[field.dataset.in] ??= {}) : body;
      place[field.name] = field.type === "checkbox" ? field.checked
        : field.type === "number" || "json" in field.dataset ? JSON.parse(field.value) : field.value;
    }
    return body;
  };

  const post = async (url, body, type = "application/json") => {
    const headers = { "Content-Type": type, "X-CSRF-Token": document.body.dataset.csrf ?? "" };
    const text = type === "application/json" ? JSON.stringify(body) : body;
    const answer = await fetch(url, { method: "POST", headers, body: text });
    const said = (answer.headers.get("Content-Type") ?? "").includes("json") ? await answer.json() : await answer.text();
    if (!answer.ok) throw new Error(said.detail ?? `the hub answered ${answer.status}`);
    return { said, location: answer.headers.get("Location") };
  };

  const tell = (form, words, tone) => {
    const output = form.querySelector("output");
    output.className = `tone-${tone}`;
    output.textContent = words;
  };

  const submit = async (form) => {
    const button = form.querySelector("button:not([type=button])");
    button.disabled = true;
    tell(form, "…", "off");
    try {
      const { said, location } = await post(form.dataset.api, bodyOf(form));
      tell(form, form.dataset.done ?? "Done.", "good");
      form.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: { said, location } }));
    } catch (error) {
      tell(form, error.message, "bad");
    } finally {
      button.disabled = false;
    }
  };

  document.addEventListener("submit", (event) => {
    if (!event.target.dataset.api) return;
    event.preventDefault();
    submit(event.target);
  });

  // What can't be done now is not offered.
  const offer = () => {
    const state = document.getElementById("rollout-now")?.dataset.state;
    for (const action of document.querySelectorAll("[data-when]")) {
      action.hidden = !action.dataset.when.split(" ").includes(state);
    }
  };
  page.on("part", offer);
  document.addEventListener("shown", offer);
  offer();
  page.post = post;
  page.tell = tell;
})();
