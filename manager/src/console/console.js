// Keeps the main part of a page as the manager has it now. Without it pages are as they were loaded.
"use strict";

// Makes `old` like `fresh`, touching only what differs: what has the focus, is open or selected stays so.
function become(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    const chosen = name === "open" && old.nodeName === "DETAILS";
    if (!fresh.hasAttribute(name) && !chosen) old.removeAttribute(name);
  }
  const [have, want] = [[...old.childNodes], [...fresh.childNodes]];
  want.forEach((child, at) => (at < have.length ? become(have[at], child) : old.append(child)));
  have.slice(want.length).forEach((child) => child.remove());
}

function follow(main) {
  const source = new EventSource(location.href);
  const state = document.getElementById("state");
  source.addEventListener("main", (event) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = event.data;
    const holder = main.cloneNode(false);
    holder.append(fresh.content);
    become(main, holder);
    if (state) state.textContent = "Live";
  });
  source.addEventListener("end", () => {
    source.close();
    if (state) state.textContent = "Ended";
  });
  source.onerror = () => {
    if (state) state.textContent = source.readyState === EventSource.CLOSED ? "Not live: load the page again" : "Connecting";
  };
  addEventListener("pagehide", () => source.close());
}

const main = document.querySelector("[data-live]");
if (main) follow(main);

// The link of a first start has its secret behind "#", where no server and no log sees it.
const secret = document.querySelector("input[data-fragment]");
if (secret && location.hash.length > 1) {
  secret.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
}
