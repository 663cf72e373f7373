// Reads {"chain": PEM, "requests": [{method, url, headers}]} and prints a JSON array that says of each request whether
// http-message-signatures finds it signed by a key of the chain. JUDGE is the directory it is installed in.
const { createHash, X509Certificate } = require("node:crypto");
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");
const { httpbis, createVerifier } = createRequire(process.env.JUDGE + "/")("http-message-signatures");

const { chain, requests } = JSON.parse(readFileSync(0, "utf8"));
const keys = new Map();
for (const pem of chain.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)) {
  const { publicKey } = new X509Certificate(pem);
  const der = publicKey.export({ type: "spki", format: "der" });
  keys.set(createHash("sha256").update(der).digest("hex"), publicKey);
}

const required = ["@method", "@target-uri", "webhook-id", "webhook-timestamp"];
Promise.all(requests.map(async (request) => {
  try {
    return true === await httpbis.verifyMessage({
      requiredParams: ["created", "keyid", "alg"],
      requiredFields: request.method === "GET" ? required : [...required, "content-digest"],
      async keyLookup({ keyid, alg }) {
        const key = keys.get(keyid);
        return key && { id: keyid, algs: [alg], verify: createVerifier(key, alg) };
      },
    }, request);
  } catch (error) {
    return String(error);
  }
})).then((verdicts) => console.log(JSON.stringify(verdicts)));
