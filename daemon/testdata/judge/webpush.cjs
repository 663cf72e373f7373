// Reads {"bodies": [{privateKey, auth, body}], "tokens": [Authorization], "ca": PEM, "pushes": [{subscription, payload, options}]}, keys and bodies in
// base64url, and prints {"bodies": [...], "tokens": [...], "pushes": [...]}: of each body what http_ece decrypts, in base64url, of each token whether jws finds
// it signed by its key, and of each push the status that web-push got for it. JUDGE is the directory they are installed in.
const { createECDH, createPublicKey } = require("node:crypto");
const { Agent } = require("node:https");
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const judge = createRequire(process.env.JUDGE + "/");
const ece = judge("http_ece");
const jws = judge("jws");
const webpush = judge("web-push");

const { bodies, tokens, ca, pushes } = JSON.parse(readFileSync(0, "utf8"));

function decrypted({ privateKey, auth, body }) {
  try {
    const key = createECDH("prime256v1");
    key.setPrivateKey(privateKey, "base64url");
    return ece.decrypt(Buffer.from(body, "base64url"), { version: "aes128gcm", privateKey: key, authSecret: auth }).toString("base64url");
  } catch (error) {
    return String(error);
  }
}

function signed(authorization) {
  const [, token, k] = /^vapid t=([^,]+), k=(.+)$/.exec(authorization);
  const point = Buffer.from(k, "base64url");
  const key = createPublicKey({
    format: "jwk",
    key: { kty: "EC", crv: "P-256", x: point.subarray(1, 33).toString("base64url"), y: point.subarray(33).toString("base64url") },
  });
  return jws.verify(token, "ES256", key.export({ type: "spki", format: "pem" }));
}

const agent = new Agent({ ca });
Promise.all(pushes.map(({ subscription, payload, options }) =>
  webpush.sendNotification(subscription, payload, { ...options, agent, contentEncoding: "aes128gcm" })
    .then((answer) => answer.statusCode, (error) => error.statusCode || String(error)),
)).then((sent) => {
  console.log(JSON.stringify({ bodies: bodies.map(decrypted), tokens: tokens.map(signed), pushes: sent }));
});
