// What a device answers to a command: its state, and its lines as they come. The last 1,000 are kept here.
"use strict";

(() => {
  const KEPT = 1000;
  const part = (name) => document.getElementById(`answer-${name}`);
  let source = null;
  let command = null;
  let unseen = 0;
  let file = null;

  const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 8;

  const tellUnseen = () => {
    part("more").hidden = !unseen;
    part("more").textContent = unseen === 1 ? "1 new line" : `${unseen} new lines`;
  };

  const find = (line) => {
    const wanted = part("find").value.toLowerCase();
    line.hidden = wanted !== "" && !line.textContent.toLowerCase().includes(wanted);
  };

  const addLines = (lines) => {
    const box = part("lines");
    const follows = isAtEnd(box);
    const added = document.createDocumentFragment();
    for (const text of lines) {
      const line = document.createElement("span");
      line.textContent = `${text}\n`;
      find(line);
      added.append(line);
    }
    box.append(added);
    while (box.children.length > KEPT) box.firstElementChild.remove();
    if (follows) box.scrollTop = box.scrollHeight;
    else unseen += lines.length;
    tellUnseen();
  };

  const showState = (said) => {
    command = said;
    const open = ["queued", "sent", "running"].includes(said.state);
    const words = [said.reason?.replaceAll("-", " "), said.message].filter(Boolean).join(": ");
    part("title").textContent = `${said.verb}: ${said.state}${words ? `, ${words}` : ""}`;
    part("end").hidden = !open;
    part("file").hidden = open || (said.verb !== "collect" && !part("lines").children.length) || said.state !== "done";
    part("file").removeAttribute("download");
    part("file").href = `/api/v1/commands/${said.id}/file`;
    if (said.verb !== "collect" && !open) {
      if (file) URL.revokeObjectURL(file);
      file = URL.createObjectURL(new Blob([part("lines").textContent], { type: "text/plain" }));
      part("file").href = file;
      part("file").download = `${said.device}-${said.verb}-${said.id}.txt`;
    }
    if (!open) source?.close();
  };

  const watch = (said) => {
    source?.close();
    document.getElementById("answer").hidden = false;
    part("lines").replaceChildren();
    unseen = 0;
    tellUnseen();
    showState(said);
    source = new EventSource(`/api/v1/commands/${said.id}/stream`);
    source.addEventListener("part", ({ data }) => addLines(JSON.parse(data).lines));
    source.addEventListener("state", ({ data }) => showState(JSON.parse(data)));
  };

  document.addEventListener("answered", ({ target, detail: { said } }) => {
    if ("command" in target.dataset) watch(said);
  });
  document.addEventListener("input", ({ target }) => {
    if (target.id === "answer-find") for (const line of part("lines").children) find(line);
    if (target.id === "answer-wrap") part("lines").classList.toggle("is-wrapped", target.checked);
  });
  document.addEventListener("click", async ({ target }) => {
    if (target.id === "answer-more") part("lines").scrollTop = part("lines").scrollHeight;
    if (target.id !== "answer-end") return;
    try {
      await page.post(`/api/v1/commands/${command.id}/cancel`);
    } catch (error) {
      part("title").textContent = error.message;
    }
  });
  document.addEventListener("scroll", ({ target }) => {
    if (target.id === "answer-lines" && isAtEnd(target)) { unseen = 0; tellUnseen(); }
  }, true);
})();
