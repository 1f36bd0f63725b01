/** What went wrong, as a user can be told: `key` names the message in `i18n.js`, `detail` is the server's own text. */
export class Failure extends Error {
  constructor(key, detail = "") {
    super(detail || key);
    this.name = "Failure";
    this.key = key;
    this.detail = detail;
  }
}
