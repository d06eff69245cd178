// Forms that say what was wrong beside the field that it was wrong with, in the API's own words.

import { Problem, opens, name } from "./api.js";
import { mark, say } from "./dom.js";

/** Show what a Problem says, each of its errors at the input it names, and the rest at the foot of the form. */
export function complain(form, problem) {
  clear(form);
  let first = null;
  const rest = [];
  for (const { field, message } of problem.errors ?? []) {
    const [input, place] = placeOf(form, field);
    if (place === null) {
      rest.push(`${field}: ${message}`);
      continue;
    }
    place.textContent = sentence(message);
    if (input !== null) {
      mark(input, "aria-invalid", "true");
      first ??= input;
    }
  }
  // What concerns no field is told whole: it says what to do next.
  const told = problem.errors?.length ? rest.map(sentence).join(" ") : problem.message;
  const foot = form.querySelector("[data-problem]");
  if (foot !== null) foot.textContent = told;
  first?.focus();
}

function placeOf(form, field) {
  const input = [...form.elements].find(
    (element) => element.type !== "radio" && (element.name === field || element.dataset.also === field),
  );
  const place = input?.getAttribute("aria-describedby")?.split(" ")[0] ?? form.querySelector(`[data-error-of="${CSS.escape(field)}"]`)?.id;
  return [input ?? null, place === undefined ? null : document.getElementById(place)];
}

export function clear(form) {
  for (const place of form.querySelectorAll(".error, .problem")) place.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

export const sentence = (words) => {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
};

/**
 * Have `act` run when the form is sent, once at a time, with its buttons still; `busy` is shown meanwhile.
 *
 * act  gets the fields and the value of the button; what it throws as a Problem is shown in the form
 */
export function onSubmit(form, act, { busy = null } = {}) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    clear(form);
    form.setAttribute("aria-busy", "true");
    if (busy !== null) busy.hidden = false;
    try {
      await act(new FormData(form), event.submitter?.value ?? "");
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      complain(form, problem);
    } finally {
      form.removeAttribute("aria-busy");
      if (busy !== null) busy.hidden = true;
    }
  });
}

/** A problem that is seen here, before the server is asked. */
export const missing = (field, message) => new Problem(422, { detail: message, errors: [{ field, message }] });

const NEEDS = {
  read: "see calls and figures",
  speak: "make speech",
  call: "place calls and act in them",
  admin: "enrol, rename or delete speakers",
};

/** Still what the token may not ask for, and say why. */
export function restrict() {
  for (const element of document.querySelectorAll("[data-needs]")) {
    const lacks = !opens(element.dataset.needs);
    element.disabled = lacks || "absent" in element.dataset;
    mark(element, "title", lacks ? reason(element.dataset.needs) : null);
  }
  for (const notice of document.querySelectorAll("[data-lacks]")) {
    const role = notice.dataset.lacks;
    // Who may not even look is told that alone.
    notice.hidden = opens(role) || (role === "call" && notice.previousElementSibling?.dataset.lacks === "read" && !opens("read"));
    say(notice, notice.hidden ? "" : reason(role));
  }
}

function reason(role) {
  if (name() === null) return `Sign in to ${NEEDS[role]}: this takes a token with the role ${role}.`;
  return `The token “${name()}” may not ${NEEDS[role]}: this takes the role ${role}.`;
}
