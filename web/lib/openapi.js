const METHODS = ["get", "post", "put", "patch", "delete"];
const MAX_DEPTH = 5;

/** An OpenAPI 3 document, its references followed. */
export class Description {
  constructor(document) {
    this.document = document;
  }

  /** Every route, as `{id, method, path, tag, operation, parameters, body}`; `body` is `{type, schema}` or null. */
  routes() {
    return Object.entries(this.document.paths ?? {}).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => this.#route(method, path, item)),
    );
  }

  /** Routes by their tag, in the order in which tags first appear: in the document's own list, then in the routes. */
  byTag() {
    const groups = new Map((this.document.tags ?? []).map(({ name }) => [name, []]));
    for (const route of this.routes()) groups.set(route.tag, [...(groups.get(route.tag) ?? []), route]);
    return [...groups].filter(([, routes]) => routes.length);
  }

  /** What `$ref` points at, with what stands beside it; a union of one type and null is that type. */
  resolve(schema) {
    let found = schema ?? {};
    for (let hops = 0; found.$ref && hops < 20; hops++) {
      const { $ref, ...beside } = found;
      found = { ...this.#at($ref), ...beside };
    }
    const options = (found.anyOf ?? found.oneOf ?? []).filter(({ type }) => type !== "null");
    if (options.length !== 1) return found;
    const { anyOf, oneOf, ...beside } = found;
    return { ...this.resolve(options[0]), ...beside };
  }

  /** A type in words: `string`, `integer ≥ 0`, `"echo" | "chat"`, `array of Item`. */
  typeOf(schema) {
    const found = this.resolve(schema);
    const choices = found.enum ?? (found.const === undefined ? null : [found.const]);
    if (choices) return choices.map((value) => JSON.stringify(value)).join(" | ");
    const options = found.anyOf ?? found.oneOf;
    if (options) return options.filter(({ type }) => type !== "null").map((option) => this.typeOf(option)).join(" | ");
    if (found.type === "array") return `array of ${found.items ? this.typeOf(found.items) : "any"}`;
    const name = found.format ?? found.contentMediaType;
    const type = found.type === "object" ? (found.title ?? "object") : [found.type ?? "any"].flat().join(" | ");
    return [type, name && `(${name})`, ...limits(found)].filter(Boolean).join(" ");
  }

  /** The fields of an object, of the items of an array, or of what a union may be: `[name, schema, required]`. */
  fields(schema) {
    const found = this.resolve(schema);
    if (found.type === "array") return this.fields(found.items);
    const options = found.anyOf ?? found.oneOf;
    if (options) return options.flatMap((option) => this.fields(option));
    const whole = [found, ...(found.allOf ?? []).map((part) => this.resolve(part))];
    const required = whole.flatMap((part) => part.required ?? []);
    return whole.flatMap(({ properties = {} }) =>
      Object.entries(properties).map(([name, property]) => [name, this.resolve(property), required.includes(name)]),
    );
  }

  /** A value that fits `schema`: its example or default where there is one. */
  example(schema, depth = 0) {
    const found = this.resolve(schema);
    const given = [found.example, found.examples?.[0], found.default, found.const, found.enum?.[0]];
    const value = given.find((candidate) => candidate !== undefined && candidate !== null);
    if (value !== undefined || depth > MAX_DEPTH) return value ?? null;
    const option = (found.anyOf ?? found.oneOf)?.[0];
    if (option) return this.example(option, depth + 1);
    if (found.type === "array") return found.items ? [this.example(found.items, depth + 1)] : [];
    const fields = this.fields(found);
    if (fields.length || found.type === "object") return this.#exampleObject(fields, depth);
    const least = found.minimum ?? 0;
    return { string: "string", integer: least, number: least, boolean: false }[found.type] ?? null;
  }

  /** Required fields, and those that have a default. */
  #exampleObject(fields, depth) {
    const told = fields.filter(([, schema, required]) => required || (schema.default ?? schema.example) !== undefined);
    return Object.fromEntries(told.map(([name, schema]) => [name, this.example(schema, depth + 1)]));
  }

  #route(method, path, item) {
    const operation = item[method];
    const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((one) => this.resolve(one));
    const [type, content] = Object.entries(this.resolve(operation.requestBody).content ?? {})[0] ?? [];
    return {
      id: `${method}${path.replace(/[^\w]+/g, "-")}`,
      method,
      path,
      tag: operation.tags?.[0] ?? "",
      operation,
      parameters,
      body: type ? { type, schema: content.schema } : null,
    };
  }

  #at(pointer) {
    const steps = pointer.split("/").slice(1);
    return steps.reduce((node, step) => node?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], this.document) ?? {};
  }
}

function limits(schema) {
  const { minimum, maximum, minLength, maxLength } = schema;
  return [
    minimum !== undefined && `≥ ${minimum}`,
    maximum !== undefined && `≤ ${maximum}`,
    minLength !== undefined && `≥ ${minLength} chars`,
    maxLength !== undefined && `≤ ${maxLength} chars`,
  ];
}
