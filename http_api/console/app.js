// The page as a whole: which part of it is seen, its colours, who is signed in, and whether the server is there.

import { Problem, forget, hasToken, meet, name, onSignIn, present } from "./api.js";
import { $, announce, mark, say } from "./dom.js";
import { restrict } from "./forms.js";
import { choose, followCalls, startCalls } from "./calls.js";
import { startHealth } from "./health.js";
import { showPhone, startPhone } from "./phone.js";
import { startSpeech } from "./speech.js";
import { refreshVoices, startVoices } from "./voices.js";

const VIEWS = ["speech", "voices", "calls", "phone", "health"];
const THEME = "mediaserver.theme";
const LONGEST_WAIT_MS = 15_000;

const LINK = {
  connecting: ["Connecting", "wait"],
  live: ["Live", "good"],
  waiting: ["Reconnecting", "wait"],
  refused: ["No live calls", "calm"],
  absent: ["No connection", "bad"],
  out: ["Signed out", "wait"],
};

// Which part is seen --------------------------------------------------------------------------------------------------

function route({ first = false } = {}) {
  const [wanted, id = ""] = location.hash.slice(1).split("/");
  const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  const changes = $(`view-${view}`).hidden;
  for (const one of VIEWS) {
    $(`view-${one}`).hidden = one !== view;
    mark(document.querySelector(`.bar a[href="#${one}"]`), "aria-current", one === view ? "page" : null);
  }
  const title = $(`${view}-title`);
  document.title = `${title.textContent} · Media server`;
  // Not scrollIntoView(), which would have the next Tab begin there.
  const link = document.querySelector(".bar [aria-current]");
  link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 40;
  if (changes && !first) {
    title.focus();
    scrollTo(0, 0);
  }
  if (view === "calls") choose(id ? decoded(id) : null);
  dispatchEvent(new Event("viewchange"));
}

function decoded(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

function startTheme() {
  $("theme").value = document.documentElement.dataset.theme;
  $("theme").addEventListener("change", ({ target }) => {
    document.documentElement.dataset.theme = target.value;
    localStorage.setItem(THEME, target.value);
    dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
}

// Who is signed in ----------------------------------------------------------------------------------------------------

/** Ask for a token; a promise of whether one was given that is in force. */
function askForToken(why) {
  const [dialog, form] = [$("token-dialog"), $("token-form")];
  say($("token-why"), why || "Whoever runs the server gives them out.");
  say($("token-error"), "");
  form.reset();
  dialog.showModal();
  $("token").focus();
  return new Promise((resolve) => {
    const given = async (event) => {
      event.preventDefault();
      const secret = $("token").value.trim();
      if (!secret) {
        fault("Type the token.");
        return;
      }
      form.setAttribute("aria-busy", "true");
      try {
        await present(secret);
        dialog.returnValue = "given";
        dialog.close("given");
      } catch (problem) {
        fault(problem.status === 401 || problem.status === 400 ? "This token is not in force. Check that you have all of it." : problem.message);
      } finally {
        form.removeAttribute("aria-busy");
      }
    };
    const fault = (text) => {
      say($("token-error"), text);
      mark($("token"), "aria-invalid", "true");
      $("token").focus();
    };
    form.addEventListener("submit", given);
    dialog.addEventListener(
      "close",
      () => {
        form.removeEventListener("submit", given);
        $("token").removeAttribute("aria-invalid");
        $("token").value = "";
        const signedIn = dialog.returnValue === "given";
        dialog.returnValue = "";
        resolve(signedIn);
        if (signedIn) connect();
      },
      { once: true },
    );
  });
}

function showIdentity() {
  $("sign-out").hidden = !hasToken();
  $("sign-out").title = name() === null ? "" : `Signed in with the token “${name()}”`;
}

// Whether the server is there -----------------------------------------------------------------------------------------

function showLink(state, why) {
  const [text, tone] = LINK[state];
  if ($("link-text").textContent !== text && state !== "connecting") announce(text);
  say($("link-text"), text);
  mark($("link"), "data-tone", tone);
  mark($("link"), "title", why || null);
  const troubled = state === "absent" || state === "out" || (state === "waiting" && why);
  $("link-notice").hidden = !troubled;
  say($("link-notice"), troubled ? `${why}${state === "out" ? "" : " What you see may be old; it goes on by itself."}` : "");
  $("sign-in").hidden = state !== "out";
}

let attempt = 0;

/** Learn what can be done here, and follow what happens; again and again until the server is there. */
async function connect() {
  const mine = (attempt += 1);
  showLink("connecting", "");
  for (let waitMs = 1000; mine === attempt; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
    try {
      await meet();
      break;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (mine !== attempt) return;
      if (problem.status === 401) {
        restrict();
        showLink("out", "This server asks for a token. Sign in, at the top of the page.");
        return;
      }
      showLink("absent", problem.message);
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }
  if (mine !== attempt) return;
  showIdentity();
  restrict();
  showPhone();
  followCalls((state, why) => {
    if (mine !== attempt) return;
    showLink(state, why);
  });
  await refreshVoices();
}

startTheme();
startSpeech();
startVoices();
startCalls();
startPhone();
startHealth();
onSignIn(askForToken);
$("token-cancel").addEventListener("click", () => $("token-dialog").close(""));
$("sign-in").addEventListener("click", connect);
$("sign-out").addEventListener("click", () => {
  forget();
  location.reload();
});
addEventListener("hashchange", () => route());
route({ first: true });
connect();
