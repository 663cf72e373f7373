// Reads {"host", "port", "ca", "key", "keyId", "teamId", "topic", "tokens"} and sends to each token with @parse/node-apn. Prints a JSON array
// that says of each token what came of it: "sent", or status and reason. JUDGE is the directory it is installed in.
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const apn = createRequire(process.env.JUDGE + "/")("@parse/node-apn");

const to = JSON.parse(readFileSync(0, "utf8"));
const provider = new apn.Provider({
  token: { key: to.key, keyId: to.keyId, teamId: to.teamId },
  address: to.host, port: to.port, ca: to.ca, production: false,
});
const note = new apn.Notification();
note.topic = to.topic;
note.pushType = "alert";
note.alert = { title: "Hello", body: "from another client" };
note.badge = 3;
note.expiry = 1893456000;
note.collapseId = "judge";
Promise.all(to.tokens.map(async (token) => {
  const { sent, failed: [failed] } = await provider.send(note, token);
  return sent.length === 1 ? "sent" : `${failed.status} ${failed.response?.reason} ${failed.error ?? ""}`.trim();
})).then((verdicts) => {
  console.log(JSON.stringify(verdicts));
  return provider.shutdown();
});
