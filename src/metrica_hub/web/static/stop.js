// The page of the emergency stop: a prepared order is shown with the commands that sign it; what they print is given.
"use strict";

(() => {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  let text = "";

  document.addEventListener("answered", ({ target, detail: { said } }) => {
    if (!target.dataset.order) return;
    text = said.text;
    document.getElementById("order-text").textContent = text;
    document.getElementById("order-keygen").textContent = [
      `printf '%s\\n' ${quoted(text.replace(/\n$/, ""))} > order.json`,
      `ssh-keygen -Y sign -n ${said.namespace} -f ~/.ssh/id_ed25519 order.json`,
      "cat order.json.sig",
    ].join("\n");
    const reason = target.dataset.reason ?? "over";
    document.getElementById("order-metrica").textContent = `metrica ${target.dataset.order} --reason ${quoted(reason)}`;
    const sign = document.getElementById("sign");
    sign.hidden = false;
    sign.scrollIntoView({ block: "start" });
    document.getElementById("signed").focus({ preventScroll: true });
  });

  document.addEventListener("submit", async (event) => {
    if (event.target.id !== "give") return;
    event.preventDefault();
    const pasted = `${document.getElementById("signed").value.trim()}\n`;
    // The signature alone, or the whole order as ssh-keygen's text and signature behind each other.
    const whole = pasted.startsWith("-----BEGIN") ? text + pasted : pasted;
    try {
      const { said } = await page.post("/api/v1/orders", whole, "text/plain");
      const judged = said.unjudged ? ` Whether its signer may was not found out here: ${said.unjudged}.` : "";
      page.tell(event.target, `Order ${said.number} is on its way.${judged}`, said.unjudged ? "warn" : "good");
    } catch (error) {
      page.tell(event.target, error.message, "bad");
    }
  });
})();
