// The API's description (/openapi.json) as a page to read: every operation with its fields, examples and answers.

import { Problem, ask } from "./api.js";
import { $, h, say } from "./dom.js";

const GROUPS = [
  ["Speech", /^\/v1\/(synthesize|prompts)/],
  ["Voices", /^\/v1\/(voices|speakers)/],
  ["Calls", /^\/v1\/(calls|events|webrtc|webhooks|recordings|clips)/],
  ["OpenAI’s clients", /^\/v1\/(audio|models)/],
  ["Speech by RTP", /^\/v1\/rtp/],
  ["The server", /./],
];

let schemas = {};

/** Words of the description: what stands between backticks is code, and an empty line begins a paragraph. */
function prose(text) {
  return text.split(/\n\n/).map((paragraph) => h("p", {}, ...inline(paragraph)));
}

const inline = (text) => text.split("`").map((part, n) => (n % 2 ? h("code", {}, part) : part));

const named = (reference) => reference.split("/").at(-1);
const resolved = (schema) => (schema.$ref ? schemas[named(schema.$ref)] : schema);

/** A type in a few words. */
function typeOf(schema) {
  if (schema.$ref) return isEnum(schemas[named(schema.$ref)]) ? typeOf(schemas[named(schema.$ref)]) : named(schema.$ref);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const ways = schema.anyOf ?? schema.oneOf;
  if (ways && !schema.type) return ways.map(typeOf).join(" | ");
  if (schema.type === "array") return schema.items ? `${typeOf(schema.items)}[]` : "array";
  if (schema.type === "object" && schema.additionalProperties?.type) return `{name: ${typeOf(schema.additionalProperties)}}`;
  if (schema.format) return schema.format;
  return schema.type ?? "any";
}

const isEnum = (schema) => schema?.enum !== undefined;

/** What a value is held to. */
function boundsOf(schema) {
  const ways = [schema, ...(schema.anyOf ?? [])];
  const of = (name) => ways.map((way) => way[name]).find((value) => value !== undefined);
  const told = [];
  if (of("minLength") > 1) told.push(`${of("minLength")} characters or more`);
  if (of("maxLength") !== undefined) told.push(`up to ${of("maxLength")} characters`);
  if (of("minimum") !== undefined || of("maximum") !== undefined) told.push(`${of("minimum") ?? ""} to ${of("maximum") ?? ""}`);
  if (of("exclusiveMinimum") !== undefined) told.push(`more than ${of("exclusiveMinimum")}`);
  if (of("maxItems") !== undefined) told.push(`up to ${of("maxItems")}`);
  if (of("pattern") !== undefined) told.push(`matches ${of("pattern")}`);
  if (schema.default !== undefined && schema.default !== null) told.push(`default ${JSON.stringify(schema.default)}`);
  return told.join(", ");
}

function fields(reference, depth = 0) {
  const schema = resolved(reference);
  if (schema === undefined) return null;
  if (schema.type === "array" && schema.items?.$ref) return h("div", {}, h("p", { class: "hint" }, "A list, each of:"), fields(schema.items, depth));
  if (!schema.properties) return null;
  const rows = Object.entries(schema.properties).map(([name, property]) => {
    const bounds = boundsOf(property);
    const within = depth < 1 ? inner(property) : null;
    return h(
      "div",
      { class: "property" },
      h("dt", {}, h("code", { class: "name" }, name), schema.required?.includes(name) ? h("span", { class: "badge" }, "required") : null),
      h(
        "dd",
        {},
        h("code", { class: "type" }, typeOf(property)),
        bounds ? h("span", { class: "bounds" }, ` ${bounds}`) : null,
        property.description ? h("p", {}, ...inline(property.description)) : null,
        within === null ? null : h("details", {}, h("summary", {}, "Its fields"), within),
      ),
    );
  });
  return h("dl", { class: "properties" }, ...rows);
}

/** The fields of what a property refers to, if it has any. */
function inner(property) {
  const ways = [property, property.items ?? {}, ...(property.anyOf ?? []).flatMap((way) => [way, way.items ?? {}])];
  const reference = ways.find((way) => way.$ref && schemas[named(way.$ref)]?.properties);
  return reference === undefined ? null : fields(reference, 1);
}

function curl(method, path, operation) {
  const parts = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${new URL("../", import.meta.url)}${path.slice(1)}`];
  if (operation.security?.length) parts.push(`-H "Authorization: Bearer $TOKEN"`);
  return (body) => {
    const all = body === undefined ? parts : [...parts, `-H 'Content-Type: application/json'`, `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`];
    return h("pre", { class: "code", tabindex: "0", "aria-label": "Command line" }, all.join(" \\\n     "));
  };
}

function operationOf(method, path, operation) {
  const line = curl(method, path, operation);
  const [mediaType, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  const examples = Object.entries(media?.examples ?? {});
  const role = operation.security?.[0]?.bearer;
  const parts = [];
  if (operation.description) parts.push(...prose(operation.description));
  if (role !== undefined) parts.push(h("p", { class: "hint" }, role.length ? `Takes a token with the role ${role.join(", ")}.` : "Takes any token."));
  if (media) parts.push(h("h4", {}, "Request ", h("code", {}, mediaType)), fields(media.schema));
  if (mediaType === undefined) parts.push(line());
  for (const [name, { value }] of examples) parts.push(h("h4", {}, `Example: ${name}`), line(value));
  parts.push(h("h4", {}, "Answers"), answersOf(operation.responses));
  return h(
    "article",
    { class: "panel operation", id: operation.operationId, "aria-labelledby": `${operation.operationId}-title` },
    h("h3", { id: `${operation.operationId}-title` }, ...inline(operation.summary)),
    h("p", { class: "path" }, h("span", { class: "badge method", "data-method": method }, method.toUpperCase()), h("code", {}, path)),
    ...parts.filter((part) => part !== null),
  );
}

function exampleOf({ example }) {
  if (example === undefined) return null;
  const text = typeof example === "string" ? example.trim() : JSON.stringify(example, null, 2);
  return h("pre", { class: "code", tabindex: "0", "aria-label": "Example" }, text);
}

function answersOf(responses) {
  const rows = Object.entries(responses).map(([status, { description, content = {}, headers = {} }]) => {
    const [type, media] = Object.entries(content)[0] ?? [];
    const isProblem = status >= 400;
    const told = [h("p", {}, ...inline(description), type ? h("span", { class: "bounds" }, ` ${Object.keys(content).join(", ")}`) : null)];
    for (const [name, header] of isProblem ? [] : Object.entries(headers)) {
      told.push(h("p", { class: "hint" }, h("code", {}, name), ": ", ...inline(header.description)));
    }
    if (!isProblem && media?.schema) {
      const body = fields(media.schema);
      if (body !== null) told.push(h("details", {}, h("summary", {}, "Its fields"), body, exampleOf(media)));
    } else if (!isProblem && media?.example) told.push(exampleOf(media));
    return h("div", { class: "answer" }, h("dt", {}, h("span", { class: "badge", "data-tone": isProblem ? "wait" : "good" }, status)), h("dd", {}, ...told));
  });
  return h("dl", { class: "answers" }, ...rows);
}

async function show() {
  const document_ = await ask("GET", "openapi.json");
  schemas = document_.components.schemas;
  say($("version"), `Version ${document_.info.version}, as this server has it now.`);
  $("about").append(...prose(document_.info.description));
  const groups = new Map(GROUPS.map(([name]) => [name, []]));
  for (const [path, methods] of Object.entries(document_.paths)) {
    const [name] = GROUPS.find(([, pattern]) => pattern.test(path));
    for (const [method, operation] of Object.entries(methods)) groups.get(name).push([method, path, operation]);
  }
  for (const [name, operations] of groups) {
    if (!operations.length) continue;
    $("operations").append(h("h2", { class: "group" }, name), ...operations.map((one) => operationOf(...one)));
    $("contents").append(
      h("p", { class: "contents-group" }, name),
      h("ul", {}, ...operations.map(([method, path, { operationId, summary }]) => h("li", {}, h("a", { href: `#${operationId}`, title: `${method.toUpperCase()} ${path}` }, ...inline(summary))))),
    );
  }
  // What the address names is there only now.
  if (location.hash) $(location.hash.slice(1))?.scrollIntoView();
}

try {
  await show();
} catch (problem) {
  if (!(problem instanceof Problem)) throw problem;
  say($("problem"), problem.message);
}
