// The page of the emergency stop: a prepared order is shown with the commands that sign it; what they print is given.
// Where the hub has a key for orders, a button has it sign what was prepared.
"use strict";

(() => {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  let text = "";
  let after = "";

  const onItsWay = (form, said) => {
    const judged = said.unjudged ? ` Whether its signer may was not found out here: ${said.unjudged}.` : "";
    page.tell(form, `Order ${said.number} is on its way.${judged}`, said.unjudged ? "warn" : "good");
  };

  // What the hub is to sign is what was prepared, upon the order that it was prepared upon.
  const offerHubKey = (prepared, upon) => {
    const form = document.getElementById("hub-sign");
    if (!form) return;
    for (const name of ["level", "scope", "reason", "resume"]) {
      form.elements[name].value = prepared.elements[name]?.value ?? "";
    }
    form.elements.after.value = upon;
    document.getElementById("hub-guard").value = "";
    form.querySelector("output").textContent = "";
  };

  document.addEventListener("answered", ({ target, detail: { said } }) => {
    if (target.id === "hub-sign") {
      document.getElementById("hub-guard").value = "";
      onItsWay(target, said);
    }
    if (!target.dataset.order) return;
    ({ text, after } = said);
    offerHubKey(target, after);
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
    document.getElementById(document.getElementById("hub-guard") ? "hub-guard" : "signed").focus({ preventScroll: true });
  });

  document.addEventListener("submit", async (event) => {
    if (event.target.id !== "give") return;
    event.preventDefault();
    const pasted = `${document.getElementById("signed").value.trim()}\n`;
    // The signature alone, or the whole order as ssh-keygen's text and signature behind each other.
    const whole = pasted.startsWith("-----BEGIN") ? text + pasted : pasted;
    // What was prepared here is for the order that was in force then; of another one only who made it knows.
    const upon = text && whole.startsWith(text) ? `?after=${after}` : "";
    try {
      const { said } = await page.post(`/api/v1/orders${upon}`, whole, "text/plain");
      onItsWay(event.target, said);
    } catch (error) {
      page.tell(event.target, error.message, "bad");
    }
  });
})();
